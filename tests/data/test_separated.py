"""Tables of any spreadsheet are read as people mean them: separators, quotes, encodings, spaces, lists in cells."""

import json

import pytest
from annotations import load, photos, refusal, table, write

from captioner.data.separated import read_separated

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_a_table_of_any_program_is_read(tmp_path, suffix, encoding):
    photos(tmp_path, "a.png")
    separator = "\t" if suffix == "tsv" else ","
    text = f"image{separator}caption\na.png{separator}Häuser – 5 €\n"
    if suffix == "jsonl":
        text = json.dumps({"image": "a.png", "caption": "Häuser – 5 €"}, ensure_ascii=False) + "\n"
    (tmp_path / f"t.{suffix}").write_bytes(text.encode(encoding))
    assert table(load("table", tmp_path)) == {"a.png": ["Häuser – 5 €"]}


@pytest.mark.parametrize(
    "text",
    [
        "image;caption\na.png;anna, the first\n",
        "image|caption\na.png|anna, the first\n",
        "image| caption\na.png| anna, the first\n",
        "image\tcaption\na.png\tanna, the first\n",
        'sep=;\nimage;caption\na.png;"anna, the first"\n',
        'image, caption\na.png, "anna, the first"\n',
        'image,caption\r\na.png,"anna, the first"\r\n,\r\n\r\n',
    ],
)
def test_what_separates_cells_is_seen_from_the_header(tmp_path, text):
    for name in ("t.csv", "t.tsv"):
        assert read_separated(write(tmp_path / name, text)) == {"image": ["a.png"], "caption": ["anna, the first"]}


def test_a_mark_in_a_tsv_is_a_sign_unless_the_cell_is_quoted_from_end_to_end(tmp_path):
    rows = ['a\t"a dog', 'b\ta cat"', 'c\t"a ""big"" bird"', 'd\t"stop" sign', 'e\t"a"']
    found = read_separated(write(tmp_path / "t.tsv", "\n".join(["image\tcaption", *rows])), "\t")
    assert found["caption"] == ['"a dog', 'a cat"', 'a "big" bird', '"stop" sign', "a"]


def test_a_quoted_cell_of_a_tsv_may_hold_tabs_and_line_ends(tmp_path):
    file = write(tmp_path / "t.tsv", 'image\tcaption\na\t"one\ttwo\nthree"\nb\tfour\n')
    assert read_separated(file, "\t")["caption"] == ["one\ttwo\nthree", "four"]


@pytest.mark.parametrize(
    "rows",
    [
        'a.png,"a dog\nb.png,a cat\n',
        'a.png,"a dog\nb.png,a cat"\n',
        'a.png,"a dog\nb.png,"a cat\n',
        'a.png,"stop" sign\n',
    ],
)
def test_a_stray_mark_swallows_no_row(tmp_path, rows):
    file = write(tmp_path / "t.csv", "image,caption\n" + rows)
    assert refusal("table", tmp_path).startswith(f"{file}, line 2: a quotation mark that opens a cell is not closed")


def test_cells_may_be_long_and_hold_marks_and_line_ends(tmp_path):
    file = write(tmp_path / "t.csv", f'image,caption\na,the "stop" sign\nb,"one,\ntwo"\nc,{"x" * 200_000}\n')
    assert [len(cell) for cell in read_separated(file)["caption"]] == [15, 8, 200_000]


def test_a_column_twice_and_an_empty_table_are_refused(tmp_path):
    file = write(tmp_path / "t.csv", "image,caption,caption\na,b,c\n")
    assert refusal("table", tmp_path) == f"{file} has the column 'caption' twice; rename one"
    write(file, "")
    assert refusal("table", tmp_path) == f"{file} is empty; give it a line with the names of its columns"
    file.unlink()
    file = write(tmp_path / "t.jsonl", "\n\n")
    assert refusal("table", tmp_path) == f"{file} is empty; write a JSON object on each line"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "a.png", "caption": NaN}', "line 1 is not JSON: it has no NaN"),
        ('["a.png"]', "line 1 is no JSON object"),
        ('{"image": "a.png", "caption": "a", "id": 1}\n{"id": "x"}', "the column 'id' holds values of several kinds"),
        ('{"image": "a.png", "caption": "a"}\n{"image": "b', "line 2 is not JSON"),
        (r'{"image": "a.png", "caption": "\ud83d"}', "line 1 is not JSON"),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path, line, message):
    photos(tmp_path, "a.png")
    write(tmp_path / "t.jsonl", line)
    assert message in refusal("table", tmp_path)


def test_texts_of_jsonl_that_look_like_dates_stay_texts(tmp_path):
    photos(tmp_path, "a.png")
    write(tmp_path / "t.jsonl", '{"image": "a.png", "caption": "2020-01-01", "id": "2020-01-01T00:00:00"}')
    assert table(load("table", tmp_path, id_column="id")) == {"2020-01-01T00:00:00": ["2020-01-01"]}


def test_a_list_that_is_written_in_a_cell_is_a_list(tmp_path):
    photos(tmp_path, *"abcde")
    cells = ["['a man', \"b's\"]", '["x", "y\\u00e4"]', "['a dog'\n 'a cat']", "[laughs]", "a [list]"]
    rows = [{"image": name, "caption": cell} for name, cell in zip("abcde", cells, strict=True)]
    write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)))
    assert table(load("table", tmp_path)) == {
        "a": ["a man", "b's"],
        "b": ["x", "yä"],
        "c": ["a dog", "a cat"],
        "d": ["[laughs]"],
        "e": ["a [list]"],
    }


def test_a_list_in_a_cell_may_be_a_context_or_several_images(tmp_path):
    photos(tmp_path, "a.png", "b.png")
    write(tmp_path / "t.csv", "image,caption,tags\n\"['a.png', 'b.png']\",x,\"['sea', 'sun']\"\n")
    sample = load("table", tmp_path, context_column="tags")[0]
    assert sample["context"] == "sea, sun"
    assert sample["image"] == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]


def test_what_looks_like_a_list_and_is_none_is_refused(tmp_path):
    photos(tmp_path, "a.png")
    write(tmp_path / "t.csv", "image,caption\na.png,\"['a man's dog', 'b']\"\n")
    assert refusal("table", tmp_path).startswith(
        "a cell looks like a list and is none: \"['a man's dog', 'b']\"; write"
    )


def test_a_blank_image_cell_is_noted_and_a_blank_column_refused(tmp_path):
    photos(tmp_path, "a.png")
    write(tmp_path / "t.csv", "image,caption\na.png,one\n,two\n")
    assert [(bad.kind, bad.id, bad.left_out) for bad in load("table", tmp_path).bad] == [
        ("blank image cell", "1", False)
    ]
    write(tmp_path / "t.csv", "image,caption\n,one\n,two\n")
    assert refusal("table", tmp_path) == (
        f"the column 'image' of {tmp_path} holds no image at all; set `data.image_column` to another one, or to null "
        "for texts alone"
    )
    assert load("table", tmp_path, image_column=None).bad == []
