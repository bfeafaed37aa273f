"""COCO's caption files become samples with their image ids, and other or missing files are refused."""

import pytest
from annotations import load, photos, refusal, table, write, write_json

pytestmark = pytest.mark.usefixtures("own_cache")


def coco(captions: dict[str, list[str]], **keys) -> dict:
    images = [{"id": 70 + n, "file_name": name, **keys} for n, name in enumerate(captions)]
    annotations = [
        {"image_id": 70 + n, "id": 10 * n + k, "caption": caption}
        for n, texts in enumerate(captions.values())
        for k, caption in enumerate(texts)
    ]
    return {"images": images, "annotations": annotations[::-1]}


def test_coco_keeps_image_ids_and_finds_the_image_subfolder(tmp_path):
    photos(tmp_path / "train2017", "1.png", "2.png")
    write_json(tmp_path / "annotations" / "captions.json", coco({"1.png": ["a\n", "b"], "2.png": ["c"]}))
    samples = load("coco", tmp_path, annotations="annotations/captions.json")
    assert table(samples) == {"70": ["b", "a"], "71": ["c"]}
    assert samples[0]["image"] == str(tmp_path / "train2017" / "1.png")


def test_coco_takes_one_file_per_split_and_a_context_from_the_image_entry(tmp_path):
    photos(tmp_path, "1.png")
    files = {
        "train": write_json(tmp_path / "t.json", coco({"1.png": ["a"]}, title="day")),
        "val": write_json(tmp_path / "v.json", coco({"1.png": ["b"]}, title="night")),
    }
    annotations = {split: str(file) for split, file in files.items()}
    keys = {"annotations": annotations, "context_column": "title"}
    assert load("coco", tmp_path, "validation", **keys)[0]["context"] == "night"
    assert load("coco", tmp_path, "train", **keys)[0]["captions"] == ["a"]
    assert "`data.annotations` has no split 'test' but train, val" in refusal("coco", tmp_path, "test", **keys)
    keys["context_column"] = "tags"
    assert "no column 'tags' but id, file_name, title" in refusal("coco", tmp_path, **keys)


def test_a_file_that_is_not_coco_captions_is_refused(tmp_path):
    tree = coco({"1.png": ["a"]})
    del tree["annotations"][0]["caption"]
    file = write_json(tmp_path / "instances.json", tree)
    assert refusal("coco", tmp_path, annotations=str(file)) == (
        f"{file} is not COCO captions (KeyError: 'caption'); set `data.annotations`"
    )
    write(file, "{")
    assert refusal("coco", tmp_path).startswith(f"{file} is not JSON: Expecting property name")


def test_a_missing_annotation_file_lists_what_is_there(tmp_path):
    write_json(tmp_path / "sub" / "a.json", {})
    write_json(tmp_path / "b.json", {})
    assert refusal("coco", tmp_path, annotations="c.json") == (
        "the annotation file c.json does not exist; "
        f"set `data.annotations`, .json files in {tmp_path}: b.json, sub/a.json"
    )
    assert refusal("karpathy", tmp_path).startswith("the annotation file for split 'train' is not clear; set")
