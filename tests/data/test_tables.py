"""CSV, TSV, JSONL and Parquet tables become samples cell by cell, and broken tables are refused."""

import json
import shutil

import pytest
from annotations import encoded, load, photos, refusal, repository, table, write

pytestmark = pytest.mark.usefixtures("own_cache")


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
