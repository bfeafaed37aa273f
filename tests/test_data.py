"""Every source ends in one schema, and every way to get it wrong ends in one line that says what to do."""

import json
import pickle
import re
import shutil
from pathlib import Path

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from captioner import sources
from captioner.data import DataError, load_split
from captioner.grouping import _unique
from captioner.settings import DataSettings


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()


def photo(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 8), colour).save(path, "PNG")
    return path


def photos(folder: Path, *names: str) -> None:
    for name in names:
        photo(folder / name)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, tree) -> Path:
    return write(path, json.dumps(tree))


def load(source: str, path: Path, split: str = "train", **keys):
    return load_split(DataSettings(source=source, path=str(path), **keys), split)


def table(samples) -> dict:
    return {sample["id"]: sample["captions"] for sample in samples}


def refusal(source: str, path, split: str = "train", **keys) -> str:
    with pytest.raises(DataError) as caught:
        load_split(DataSettings(source=source, path=None if path is None else str(path), **keys), split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def repository(folder: Path, splits: dict[str, dict]) -> Path:
    """A folder of Parquet files with embedded images, as on the Hub."""
    for split, columns in splits.items():
        features = datasets.Features(
            {
                name: datasets.Image()
                if name == "image"
                else datasets.List(datasets.Value("string"))
                if isinstance(values[0], list)
                else datasets.Value("string")
                for name, values in columns.items()
            }
        )
        folder.mkdir(parents=True, exist_ok=True)
        rows = datasets.Dataset.from_dict(columns, features=features)
        rows.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def encoded(tmp_path: Path, name: str | None, colour: str = "red") -> dict:
    return {"bytes": photo(tmp_path / "made.png", colour).read_bytes(), "path": name}


# Repositories


@pytest.mark.parametrize("place", [".", "data"])
def test_a_folder_of_parquet_files_is_read_without_decoding_images(tmp_path, place):
    columns = {
        "image": [encoded(tmp_path, "é 1.png"), {"bytes": b"no image", "path": "b.png"}],
        "captions": [["a dog", "a brown dog"], ["a cat"]],
    }
    repository(tmp_path / "set" / place, {"train": columns, "validation": columns})
    samples = load("datasets", tmp_path / "set")
    assert len(samples) == 2
    assert samples[0] == {
        "image": columns["image"][0],
        "captions": ["a dog", "a brown dog"],
        "context": None,
        "id": "é 1.png",
    }
    assert samples[1]["image"]["bytes"] == b"no image"
    assert table(pickle.loads(pickle.dumps(samples))) == table(samples)


def test_an_imagefolder_with_metadata_jsonl_keeps_lists_contexts_and_subfolders(tmp_path):
    photos(tmp_path / "train", "ü.png", "deep/b.png")
    rows = [
        {"file_name": "ü.png", "captions": ["one, with comma", "two\nlines"], "title": "a title"},
        {"file_name": "deep/b.png", "captions": ["three"], "title": None},
    ]
    write(tmp_path / "train" / "metadata.jsonl", "\n".join(map(json.dumps, rows)))
    samples = load("datasets", tmp_path, context_column="title")
    assert table(samples) == {"ü.png": ["one, with comma", "two\nlines"], "b.png": ["three"]}
    assert {sample["context"] for sample in samples} == {"a title", None}
    assert all(Path(sample["image"]["path"]).is_file() and not sample["image"]["bytes"] for sample in samples)


def test_an_imagefolder_with_metadata_csv_and_a_text_column_needs_no_settings(tmp_path):
    photos(tmp_path, "a.png", "b.png")
    write(tmp_path / "metadata.csv", 'file_name,text\na.png,"a dog, brown"\nb.png,a cat\n')
    assert table(load("datasets", tmp_path)) == {"a.png": ["a dog, brown"], "b.png": ["a cat"]}


def test_rows_of_one_embedded_image_become_one_sample_in_order(tmp_path):
    dog, cat = encoded(tmp_path, "dog.png", "red"), encoded(tmp_path, "cat.png", "blue")
    columns = {"image": [dog, cat, dog], "caption": ["a dog", "a cat", "a brown dog"]}
    samples = load("datasets", repository(tmp_path / "set", {"train": columns}))
    assert table(samples) == {"dog.png": ["a dog", "a brown dog"], "cat.png": ["a cat"]}
    assert [sample["image"]["path"] for sample in samples] == ["dog.png", "cat.png"]


def test_images_that_only_share_their_name_stay_apart(tmp_path):
    images = [{"bytes": b"1", "path": "0.png"}, {"bytes": b"22", "path": "0.png"}]
    columns = {"image": images, "caption": ["a", "b"]}
    assert table(load("datasets", repository(tmp_path / "set", {"train": columns}))) == {
        "0.png#0": ["a"],
        "0.png#1": ["b"],
    }


def test_nameless_images_are_grouped_by_the_id_column_and_named_by_row_without_one(tmp_path):
    image = encoded(tmp_path, None)
    columns = {"image": [image] * 3, "caption": ["a", "b", "c"], "key": ["x", "y", "x"]}
    folder = repository(tmp_path / "set", {"train": columns})
    assert table(load("datasets", folder, id_column="key")) == {"x": ["a", "c"], "y": ["b"]}
    assert table(load("datasets", folder)) == {"0": ["a"], "1": ["b"], "2": ["c"]}


def test_a_saved_dataset_is_read_from_disk(tmp_path):
    rows = datasets.Dataset.from_dict({"image": [encoded(tmp_path, "a.png")], "text": ["a dog"]})
    datasets.DatasetDict({"test": rows}).save_to_disk(tmp_path / "set")
    assert table(load("datasets", tmp_path / "set", "test")) == {"a.png": ["a dog"]}
    assert "has no split 'train' but test" in refusal("datasets", tmp_path / "set")
    rows.save_to_disk(tmp_path / "one")
    assert table(load("datasets", tmp_path / "one")) == {"a.png": ["a dog"]}


def test_a_hub_name_reaches_the_hub(tmp_path, monkeypatch):
    asked = []

    def builder(path):
        asked.append(path)
        raise ConnectionError("no\nnetwork")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "load_dataset_builder", builder)
    message = refusal("datasets", "owner/set")
    assert asked == ["owner/set"]
    assert re.search(
        r"`data.path` owner/set is neither here \(in .* there is nothing\) nor a usable Hub repository",
        message,
    )
    assert message.endswith(": no network")


def test_what_the_hub_answers_is_read_like_a_folder(tmp_path, monkeypatch):
    columns = {"image": [encoded(tmp_path, "a.png")], "caption": ["a dog"]}
    folder = repository(tmp_path / "set", {"train": columns})
    monkeypatch.setattr(sources, "load_dataset_builder", lambda path: datasets.load_dataset_builder(str(folder)))
    assert table(load_split(DataSettings(path="owner/set"), "train")) == {"a.png": ["a dog"]}


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
    assert len(load_split(DataSettings(source="scenes", limit=3), "validation")) == 3


# COCO


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
    assert refusal("coco", tmp_path).startswith(f"{file} is not valid JSON: Expecting property name")


def test_a_missing_annotation_file_lists_what_is_there(tmp_path):
    write_json(tmp_path / "sub" / "a.json", {})
    write_json(tmp_path / "b.json", {})
    assert refusal("coco", tmp_path, annotations="c.json") == (
        "the annotation file c.json does not exist; "
        f"set `data.annotations`, .json files in {tmp_path}: b.json, sub/a.json"
    )
    assert refusal("karpathy", tmp_path).startswith("the annotation file for split 'train' is not clear; set")


# Karpathy and BLIP


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


# Tables


def test_csv_cells_are_text_whatever_they_look_like(tmp_path):
    photos(tmp_path, "007.png", "sub/ß.png")
    write(
        tmp_path / "captions.csv",
        '\ufeffid,image,caption,note\n007,007.png,"a, b\nc",\n8,sub/ß.png,None,null\n007,007.png,1.0,\n',
    )
    samples = load("table", tmp_path / "captions.csv", id_column="id", context_column="note")
    assert table(samples) == {"007": ["a, b\nc", "1.0"], "8": ["None"]}
    assert [sample["context"] for sample in samples] == [None, "null"]


def test_one_image_with_two_contexts_is_two_samples(tmp_path):
    photos(tmp_path, "a.png")
    rows = [{"path": "a.png", "question": q, "caption": c} for q, c in [("who?", "me"), ("how?", "so"), ("who?", "I")]]
    write(tmp_path / "vqa.jsonl", "\n".join(map(json.dumps, rows)))
    samples = load("table", tmp_path, context_column="question")
    assert [(s["context"], s["captions"], s["id"]) for s in samples] == [
        ("who?", ["me", "I"], "a.png#0"),
        ("how?", ["so"], "a.png#1"),
    ]


def test_tags_are_joined_to_one_context(tmp_path):
    photos(tmp_path, "a.png")
    write(tmp_path / "t.jsonl", json.dumps({"image": "a.png", "captions": ["x"], "tags": ["sea", "sun"]}))
    assert load("table", tmp_path, context_column="tags")[0]["context"] == "sea, sun"


def test_tables_per_split_lie_beside_the_images_or_elsewhere(tmp_path):
    photos(tmp_path / "pictures", "a.png")
    write(tmp_path / "tables" / "train.tsv", "image\tcaption\na.png\tone, two\n")
    write(tmp_path / "tables" / "val.tsv", "image\tcaption\na.png\tthree\n")
    folder = tmp_path / "tables"
    files = {split: str(folder / f"{split}.tsv") for split in ("train", "val")}
    assert table(load("table", tmp_path / "pictures", annotations=files)) == {"a.png": ["one, two"]}
    shutil.copy(tmp_path / "pictures" / "a.png", folder / "a.png")
    assert table(load("table", folder, "validation")) == {"a.png": ["three"]}


def test_a_parquet_table_may_hold_its_images(tmp_path):
    columns = {"image": [encoded(tmp_path, "a.png")], "caption": ["a"]}
    repository(tmp_path / "set", {"train": columns})
    file = next((tmp_path / "set").iterdir())
    assert load("table", file)[0]["image"]["bytes"] == columns["image"][0]["bytes"]


def test_a_blank_image_cell_is_an_absent_image(tmp_path):
    photos(tmp_path, "a.png")
    write(tmp_path / "t.csv", "image,caption\na.png,one\n,two\n,three\n")
    samples = load("table", tmp_path)
    assert [(s["image"] is None, s["id"], s["captions"]) for s in samples] == [
        (False, "a.png", ["one"]),
        (True, "1", ["two"]),
        (True, "2", ["three"]),
    ]


def test_broken_tables_and_other_files_are_refused(tmp_path):
    file = write(tmp_path / "t.csv", "image,caption\na.png,one, two\n")
    assert refusal("table", tmp_path) == (
        f"{file}: line 2 has 3 cells below a header of 2; quote cells that contain ',' or line ends"
    )
    broken = write(tmp_path / "t.jsonl", "{")
    message = refusal("table", broken)
    assert message.startswith(f"{broken} cannot be read as .jsonl: ")
    assert message.endswith("; repair or convert it")
    other = write(tmp_path / "t.xlsx", "")
    assert refusal("table", other) == (
        f"a table must be a .csv, .tsv, .jsonl, .parquet file, but is {other}; convert it"
    )


# Flickr8k


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
        f"{file} has no split lists beside it, so it has no split 'validation' but train; "
        "set `data.train_split` to train[:90%] and `data.validation_split` to train[90%:]"
    )
    assert list(table(load("flickr8k", tmp_path, "train[50%:]"))) == ["b.jpg"]


def test_flickr8k_without_captions_says_what_lines_should_be(tmp_path):
    file = write(tmp_path / "captions.txt", "nothing\n")
    assert refusal("flickr8k", tmp_path) == (
        f"{file} holds no captions; its lines must be name#0<TAB>caption, or image,caption under that header"
    )
    file.unlink()
    assert "set `data.annotations`, .txt files in" in refusal("flickr8k", tmp_path)


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


@given(st.lists(st.sampled_from(["a", "b", "a#0", "a#1", "a#1#2"]), max_size=6))
def test_ids_are_unique(names):
    unique = _unique(names)
    assert len(set(unique)) == len(names)
