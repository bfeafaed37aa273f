"""Karpathy's splits and BLIP's lists become samples, and other JSON is refused."""

import pytest
from annotations import load, photos, refusal, table, write_json

pytestmark = pytest.mark.usefixtures("own_cache")


def karpathy_image(name: str, split: str, *texts: str, **keys) -> dict:
    sentences = [{"raw": text, "tokens": text.split()} for text in texts]
    return {"filename": name, "split": split, "imgid": 5, "sentences": sentences, **keys}


def test_karpathy_train_includes_restval_and_files_sit_in_filepath(tmp_path):
    photos(tmp_path, "val2014/1.png", "train2014/2.png", "val2014/3.png")
    images = [
        karpathy_image("1.png", "restval", "one", "two", filepath="val2014", cocoid=9),
        karpathy_image("2.png", "train", "three", filepath="train2014", cocoid=4),
        karpathy_image("3.png", "val", "four", filepath="val2014", cocoid=2),
    ]
    write_json(tmp_path / "dataset_coco.json", {"images": images, "dataset": "coco"})
    assert table(load("karpathy", tmp_path)) == {"9": ["one", "two"], "4": ["three"]}
    assert table(load("karpathy", tmp_path, "validation")) == {"2": ["four"]}
    assert table(load("karpathy", tmp_path, "restval")) == {"9": ["one", "two"]}
    assert "has no split 'test' but restval, train, val;" in refusal("karpathy", tmp_path, "test")


def test_karpathy_of_flickr_has_neither_filepath_nor_cocoid(tmp_path):
    photos(tmp_path / "images", "1.png")
    file = write_json(tmp_path / "flickr.json", {"images": [karpathy_image("1.png", "train", "one")]})
    assert table(load("karpathy", tmp_path / "images", annotations=str(file))) == {"1.png": ["one"]}


def test_blip_lists_are_told_apart_by_their_form(tmp_path):
    photos(tmp_path, "val2014/1.png", "val2014/2.png")
    train = [
        {"image": "val2014/1.png", "caption": "one", "image_id": "coco_1"},
        {"image": "val2014/2.png", "caption": "two", "image_id": "coco_2"},
        {"image": "val2014/1.png", "caption": "three", "image_id": "coco_1"},
    ]
    files = {
        "train": str(write_json(tmp_path / "t.json", train)),
        "val": str(write_json(tmp_path / "v.json", [{"image": "val2014/1.png", "caption": ["a", "b"]}])),
    }
    assert table(load("karpathy", tmp_path, annotations=files)) == {
        "val2014/1.png": ["one", "three"],
        "val2014/2.png": ["two"],
    }
    assert list(table(load("karpathy", tmp_path, annotations=files, id_column="image_id"))) == [
        "coco_1",
        "coco_2",
    ]
    assert table(load("karpathy", tmp_path, "val", annotations=files)) == {"val2014/1.png": ["a", "b"]}


@pytest.mark.parametrize(
    ("tree", "what"),
    [({"images": [{}]}, "Karpathy's JSON"), ([{"image": "a"}], "a list of image and caption")],
)
def test_other_json_is_refused(tmp_path, tree, what):
    file = write_json(tmp_path / "a.json", tree)
    assert refusal("karpathy", tmp_path).startswith(f"{file} is not {what} (KeyError: ")
