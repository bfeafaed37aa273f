"""Folders of Parquet files, image folders, saved data sets and names on the Hub become samples of one schema."""

import json
import pickle
import re
from pathlib import Path

import datasets
import pytest
from annotations import encoded, load, photos, refusal, repository, table, write

from captioner.base import DataSettings
from captioner.data import DataError, load_split, open_stream, tars

pytestmark = pytest.mark.usefixtures("own_cache")


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
    monkeypatch.setattr(tars, "load_dataset_builder", builder)
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
    monkeypatch.setattr(tars, "load_dataset_builder", lambda path: datasets.load_dataset_builder(str(folder)))
    assert table(load_split(DataSettings(path="owner/set"), "train")) == {"a.png": ["a dog"]}


@pytest.mark.parametrize("name", ["imagefolder", "json", "csv", "text", "parquet", "webdataset", "arrow"])
def test_a_folder_is_read_by_its_own_files_alone_whatever_it_is_called(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for folder, caption in ((name, "right"), ("old", "wrong")):
        photos(Path(folder) / "train", "1.png")
        write(Path(folder) / "train" / "metadata.jsonl", json.dumps({"file_name": "1.png", "captions": caption}))
    assert table(load("datasets", Path(name))) == {"1.png": ["right"]}
    columns = {"image": [encoded(tmp_path, "a.png")], "caption": ["right"]}
    repository(Path("p") / name, {"train": columns})
    monkeypatch.chdir("p")
    assert len(open_stream(DataSettings(path=name, streaming=True), "train")) == 1


def test_different_images_of_one_name_and_size_are_different_samples(tmp_path):
    pixels = [bytearray(b"BM" + bytes(90_000)) for _ in range(4)]
    pixels[1][45_000], pixels[2][-1] = 1, 1
    columns = {"image": [{"bytes": bytes(own), "path": "0.bmp"} for own in pixels], "caption": list("abcd")}
    samples = load("datasets", repository(tmp_path / "set", {"train": columns}))
    assert [sample["captions"] for sample in samples] == [["a", "d"], ["b"], ["c"]]


def test_different_images_without_a_name_that_share_an_id_are_different_samples(tmp_path):
    images = [encoded(tmp_path, None, colour) for colour in ("red", "blue", "red")]
    columns = {"image": images, "caption": ["a", "b", "c"], "key": ["x"] * 3}
    samples = load("datasets", repository(tmp_path / "set", {"train": columns}), id_column="key")
    assert [sample["captions"] for sample in samples] == [["a", "c"], ["b"]]
    assert [bad.kind for bad in samples.bad] == ["duplicate id"]


def test_a_foreign_file_of_a_saved_datasets_name_makes_no_saved_dataset(tmp_path):
    photos(tmp_path, "a.png")
    write(tmp_path / "metadata.csv", "file_name,text\na.png,a cat\n")
    for name in ("dataset_dict.json", "state.json"):
        for content in ("{}", "[1]", "no JSON", '{"splits": "train"}'):
            write(tmp_path / name, content)
            assert table(load("datasets", tmp_path)) == {"a.png": ["a cat"]}


def test_what_cannot_be_read_is_named_in_one_line(tmp_path):
    columns = {"image": [encoded(tmp_path, "a.png")], "caption": ["a"]}
    folder = repository(tmp_path / "set", {"train": columns})
    cut = folder / "train-00001-of-00001.parquet"
    cut.write_bytes(next(folder.iterdir()).read_bytes()[:-9])
    assert f"{cut} cannot be read: " in refusal("datasets", folder)
    with pytest.raises(DataError, match=f"^{cut} cannot be read: "):
        open_stream(DataSettings(path=str(folder), streaming=True), "train")
    assert refusal("datasets", cut) == (
        f"`data.path` {cut} is a file; set `data.source` to table, or `data.path` to a folder"
    )
    broken = tmp_path / "saved"
    write(broken / "state.json", '{"_data_files": [{"filename": "gone.arrow"}]}')
    assert refusal("datasets", broken).startswith(f"`data.path` {broken} does not load: ")
    photos(tmp_path / "photos", "a.png")
    (tmp_path / "photos" / "metadata.csv").write_bytes("file_name,text\na.png,ä\n".encode("cp1252"))
    assert "metadata.csv is not UTF-8; save it as UTF-8, or read it with" in refusal("datasets", tmp_path / "photos")
