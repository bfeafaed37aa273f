"""Both forms of Flickr8k's captions become samples, and a file without captions is refused."""

import pytest
from annotations import load, photos, refusal, table, write

pytestmark = pytest.mark.usefixtures("own_cache")


def test_flickr8k_token_file_follows_the_split_lists(tmp_path):
    photos(tmp_path / "Flickr8k_Dataset" / "Flicker8k_Dataset", "a.jpg", "b.jpg", "c.jpg")
    lines = [
        "a.jpg#0\tA dog , brown .",
        "a.jpg#1\tTwo .",
        "b.jpg#0\tA cat .",
        "c.jpg#0\tA cow .",
        "d.jpg.1#0\tbad",
    ]
    write(tmp_path / "text" / "Flickr8k.token.txt", "\n".join(lines) + "\n")
    for name, images in {"train": "b.jpg\na.jpg\n", "dev": "c.jpg\n"}.items():
        write(tmp_path / "text" / f"Flickr_8k.{name}Images.txt", images)
    assert list(table(load("flickr8k", tmp_path)).items()) == [
        ("b.jpg", ["A cat ."]),
        ("a.jpg", ["A dog , brown .", "Two ."]),
    ]
    assert table(load("flickr8k", tmp_path, "validation")) == {"c.jpg": ["A cow ."]}
    assert "has no split 'test' but" in refusal("flickr8k", tmp_path, "test")


def test_flickr8k_captions_txt_keeps_commas_and_has_only_train(tmp_path):
    photos(tmp_path / "Images", "a.jpg", "b.jpg")
    lines = ["image,caption", "a.jpg,A dog , brown , runs .", 'a.jpg,"Quoted, ""so"""', 'b.jpg,"Open quote']
    file = write(tmp_path / "captions.txt", "\n".join(lines))
    expected = {"a.jpg": ["A dog , brown , runs .", 'Quoted, "so"'], "b.jpg": ['"Open quote']}
    assert table(load("flickr8k", tmp_path)) == table(load("flickr8k", tmp_path, "all")) == expected
    assert refusal("flickr8k", tmp_path, "validation") == (
        f"{file} (image,caption) has no split lists beside it, so it has no split 'validation' but train; "
        "set `data.train_split` to train[:90%] and `data.validation_split` to train[90%:], or `data.hold_out`"
    )
    assert list(table(load("flickr8k", tmp_path, "train[50%:]"))) == ["b.jpg"]


def test_flickr8k_without_captions_says_what_lines_should_be(tmp_path):
    file = write(tmp_path / "captions.txt", "nothing\n")
    assert refusal("flickr8k", tmp_path) == (
        f"{file} holds no captions; its lines must be name#0<TAB>caption, or image,caption, or "
        "image_name|comment_number|comment, the latter under that header"
    )
    file.unlink()
    assert "set `data.annotations`, .txt or .csv or .token files in" in refusal("flickr8k", tmp_path)
