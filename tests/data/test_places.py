"""A photo is taken from the folder that is meant, under whatever spelling of its name, or its places are named."""

from unicodedata import normalize

import numpy as np
import pytest
from annotations import load, photos, refusal, write, write_json

pytestmark = pytest.mark.usefixtures("own_cache")


def test_the_folder_of_the_split_comes_before_others(tmp_path):
    photos(tmp_path, "test/1.png", "train/1.png", "val/1.png")
    for split in ("train", "test"):
        write(tmp_path / f"{split}.csv", "image,caption\n1.png,a\n")
        assert load("table", tmp_path, split)[0]["image"] == str(tmp_path / split / "1.png")
    write(tmp_path / "validation.csv", "image,caption\n1.png,a\n")
    assert load("table", tmp_path, "validation")[0]["image"] == str(tmp_path / "val" / "1.png")


def test_a_photo_that_may_be_in_two_folders_is_refused(tmp_path):
    photos(tmp_path, "a/1.png", "b/1.png")
    write(tmp_path / "t.csv", "image,caption\n1.png,a\n")
    assert refusal("table", tmp_path) == (
        f"1.png is in {tmp_path}/a, {tmp_path}/b; write the folder into the table (a/1.png), or set `data.path` to the "
        "right one"
    )


def test_the_folder_with_all_photos_is_meant_where_another_has_some(tmp_path):
    photos(tmp_path, "a/1.png", "b/1.png", "b/2.png")
    write(tmp_path / "t.csv", "image,caption\n1.png,a\n2.png,b\n")
    assert load("table", tmp_path)[0]["image"] == str(tmp_path / "b" / "1.png")


def test_a_hidden_folder_has_no_photos(tmp_path):
    photos(tmp_path, ".thumbs/1.png", "x/1.png")
    write(tmp_path / "t.csv", "image,caption\n1.png,a\n")
    assert load("table", tmp_path)[0]["image"] == str(tmp_path / "x" / "1.png")


@pytest.mark.parametrize(("there", "written"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_photo_is_found_in_another_unicode_form_and_is_one_photo(tmp_path, there, written):
    file = normalize(there, "é/café.png")
    photos(tmp_path, file)
    names = [normalize(written, "é/café.png"), normalize(there, "é/café.png"), "./" + file]
    write(tmp_path / "t.csv", "image,caption\n" + "".join(f"{name},{row}\n" for row, name in enumerate(names)))
    samples = load("table", tmp_path)
    assert [sample["captions"] for sample in samples] == [["0", "1", "2"]]
    assert samples[0]["image"] == str(tmp_path / file)


def test_backslashes_and_spaces_around_a_name_are_read_as_meant(tmp_path):
    photos(tmp_path, "img/a.png", "img/b.png")
    write(tmp_path / "t.csv", "image,caption\nimg\\a.png,x\n img/b.png ,y\n")
    assert [sample["image"] for sample in load("table", tmp_path)] == [
        str(tmp_path / "img" / "a.png"),
        str(tmp_path / "img" / "b.png"),
    ]


def test_a_number_that_two_photos_end_in_is_that_of_the_split_or_refused(tmp_path):
    write_json(tmp_path / "q.json", {"questions": [{"question_id": 1, "question": "who?", "image_id": 7}]})
    write_json(tmp_path / "a.json", {"annotations": [{"question_id": 1, "answers": [{"answer": "me"}]}]})
    keys = {"questions": str(tmp_path / "q.json"), "annotations": str(tmp_path / "a.json")}
    photos(tmp_path / "p", "train/7.png", "val/7.png", ".thumbs/7.png")
    assert load("vqa", tmp_path / "p", **keys)[0]["image"] == str(tmp_path / "p/train/7.png")
    assert load("vqa", tmp_path / "p", "validation", **keys)[0]["image"] == str(tmp_path / "p/val/7.png")
    assert refusal("vqa", tmp_path / "p", "test", **keys).startswith("image 7 may be train/7.png, val/7.png; set")


def test_a_number_sign_in_a_path_of_features_is_of_the_name_if_there_is_such_a_file(tmp_path):
    photos(tmp_path, "a.png", "b.png")
    (tmp_path / "my #1").mkdir()
    np.save(tmp_path / "my #1" / "a#b.npy", np.zeros((1, 2)))
    write(tmp_path / "t.csv", "image,caption,sound\na.png,x,my #1/a#b.npy\nb.png,y,my #1/a#b.npy#key\n")
    samples = load("table", tmp_path, modality_columns={"audio": "sound"})
    file = str(tmp_path / "my #1" / "a#b.npy")
    assert [sample["audio"] for sample in samples] == [file, file + "#key"]
