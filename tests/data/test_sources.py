"""Splits, slices and limits of any source, and the one line that says what to do where a source cannot be read."""

import json
import re
from pathlib import Path

import pytest
from annotations import encoded, load, photos, refusal, repository, table, write, write_json
from hypothesis import given
from hypothesis import strategies as st

from captioner.base import DataSettings
from captioner.data import load_split, sources
from captioner.data.groups import unique
from captioner.scenes.scenes import SceneError

pytestmark = pytest.mark.usefixtures("own_cache")


# Splits


@pytest.fixture
def numbered(tmp_path) -> Path:
    """Eleven images with two captions each, one per line."""
    names = [f"{n:02}.png" for n in range(11)]
    photos(tmp_path, *names)
    lines = [f"{name},{part}" for part in ("first", "second") for name in names]
    write(tmp_path / "captions.csv", "\n".join(["image,caption", *lines]))
    return tmp_path


def test_slices_hold_out_whole_images(numbered):
    train, rest = load("table", numbered, "train[:80%]"), load("table", numbered, "train[80%:]")
    assert [len(train), len(rest)] == [9, 2]
    assert not set(table(train)) & set(table(rest))
    assert all(captions == ["first", "second"] for captions in {**table(train), **table(rest)}.values())
    assert list(table(load("table", numbered, "train[:1]+train[10:]"))) == ["00.png", "10.png"]


def test_limit_cuts_each_split(numbered):
    assert list(table(load("table", numbered, limit=2))) == ["00.png", "01.png"]
    assert list(table(load("table", numbered, "train[5:]", limit=1))) == ["05.png"]


def test_bad_and_empty_slices_are_refused(numbered):
    assert refusal("table", numbered, "train[half]") == (
        "'train[half]' is not a slice of a split; write train[:95%] or train[:1000]"
    )
    assert refusal("table", numbered, "train[50:]").endswith("the slice takes none of 11 samples; widen it")


def test_names_of_the_validation_split_stand_for_each_other(tmp_path):
    columns = {"image": [encoded(tmp_path, "a.png")], "caption": ["a"]}
    folder = repository(tmp_path / "set", {"train": columns, "validation": columns})
    assert len(load("datasets", folder, "val")) == 1
    assert refusal("datasets", folder, "test") == (
        f"{folder} has no split 'test' but train, validation; set `data.train_split` or `data.validation_split`"
    )
    assert table(load("datasets", folder, "all")) == {"a.png": ["a", "a"]}


def test_scenes_are_handed_over():
    for name in ("validation", "val"):
        assert len(load_split(DataSettings(source="scenes", limit=3), name)) == 3


@pytest.mark.parametrize(("split", "levels"), [("tset", [1]), ("train[:5]", [1]), ("test", [9]), ("test", [])])
def test_scenes_that_there_are_not_are_refused(split, levels):
    with pytest.raises(SceneError, match="^scenes have the splits .* and the levels "):
        load_split(DataSettings(source="scenes", levels=levels), split)


# Refusals of every source


@pytest.mark.parametrize("source", [*sources.SOURCES])
def test_a_path_must_be_set_and_exist(tmp_path, source):
    assert refusal(source, None) == (f"`data.path` is not set; give the folder or file of the source {source!r}")
    photos(tmp_path, "right/a.png", "other.png")
    assert refusal(source, tmp_path / "wrong" / "folder") == (
        f"`data.path` {tmp_path / 'wrong' / 'folder'} does not exist; in {tmp_path} there is other.png, right"
    )


@pytest.mark.parametrize("column", ["image", "caption", "context", "id"])
def test_a_missing_column_lists_the_columns_there_are(tmp_path, column):
    write(tmp_path / "t.csv", "photo,words\na.png,one\n")
    names = {"image_column": "photo", "caption_column": "words", f"{column}_column": "x"}
    assert refusal("table", tmp_path, **names) == (
        f"{tmp_path} has no column 'x' but photo, words; set `data.{column}_column` to one of them"
    )


def test_a_column_that_holds_something_else_is_refused(tmp_path):
    photos(tmp_path, "a.png")
    write(tmp_path / "t.jsonl", json.dumps({"image": "a.png", "captions": 3}))
    assert refusal("table", tmp_path) == (
        "captions must be text or lists of text, but one is 3; set `data.caption_column`"
    )
    message = refusal("table", tmp_path, image_column="captions", caption_column="image")
    assert re.fullmatch(r"the image column must hold images or paths, but holds .*; set `data.image_column`", message)


def test_missing_images_are_counted_and_named_at_load_time(tmp_path):
    photos(tmp_path, "a.png")
    write(tmp_path / "t.csv", "image,caption\na.png,1\nb.png,2\nb.png,3\nsub/c.png,4\n")
    assert refusal("table", tmp_path) == (
        f"split 'train' of {tmp_path} has 2 image files missing: {tmp_path}/b.png, {tmp_path}/sub/c.png; "
        "put them there, set `data.path`, or remove their rows; `data.max_bad_share` is 0.1, but 2 of 3 samples cannot "
        "be used"
    )


def test_missing_images_of_an_imagefolder_are_found_at_load_time(tmp_path):
    photos(tmp_path, "a.png", "b.png")
    write(tmp_path / "metadata.csv", "file_name,text\na.png,one\nb.png,two\n")
    load("datasets", tmp_path)
    (tmp_path / "b.png").unlink()
    assert "has 1 image files missing" in refusal("datasets", tmp_path)


def test_samples_without_captions_are_counted_and_named(tmp_path):
    photos(tmp_path, *"abcde")
    rows = {"a": ["x", " "], "b": [""], "c": [], "d": None, "e": [None]}
    lines = [json.dumps({"image": name, "captions": captions}) for name, captions in rows.items()]
    write(tmp_path / "t.jsonl", "\n".join(lines))
    assert refusal("table", tmp_path) == (
        f"split 'train' of {tmp_path} has 4 samples without a caption: b, c, d, … 1 more; "
        "give each at least one, or remove it; `data.max_bad_share` is 0.1, but 4 of 5 samples cannot be used"
    )


def test_an_empty_split_is_refused(tmp_path):
    write(tmp_path / "t.csv", "image,caption\n")
    message = f"split 'train' of {tmp_path} is empty; give it at least one image with a caption"
    assert refusal("table", tmp_path) == message
    (tmp_path / "t.csv").unlink()
    write_json(tmp_path / "t.json", {"images": [], "annotations": []})
    assert refusal("coco", tmp_path) == message


def test_only_ids_that_come_twice_get_their_place(numbered):
    lines = (numbered / "captions.csv").read_text().replace("image,caption", "image,caption,id").splitlines()
    rows = [lines[0], *(f"{line},{'x' if place in (3, 5) else place}" for place, line in enumerate(lines[1:12]))]
    write(numbered / "captions.csv", "\n".join(rows))
    ids = list(table(load("table", numbered, id_column="id")))
    assert ids == ["0", "1", "2", "x#3", "4", "x#5", *map(str, range(6, 11))]


@given(st.lists(st.sampled_from(["a", "b", "a#0", "a#1", "a#1#2"]), max_size=6))
def test_ids_are_unique(names):
    made = unique(names)
    assert len(set(made)) == len(names)
