"""Texts of any program are read as they are meant, or refused by name."""

import json

import pytest

from captioner.base import TextError, decoded, json_lines, lines_of, parse_json, read_text
from captioner.base.texts import _warned

TEXT = "Häuser in Zürich – 5 €, “schön”\n"


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-16-le"),
        TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        TEXT.encode("cp1252"),
    ],
    ids=["utf-8", "utf-8-sig", "utf-16", "utf-16-be-mark", "utf-16-le", "utf-16-be", "utf-32", "cp1252"],
)
def test_one_text_comes_out_of_every_encoding_of_people(tmp_path, content):
    (tmp_path / "t.txt").write_bytes(content)
    assert read_text(tmp_path / "t.txt") == TEXT


@pytest.mark.parametrize(
    "content",
    [
        "собака бежит".encode("cp1251"),
        "一只狗在草地上奔跑".encode("gbk"),
        "犬がドッグランを走る".encode("shift-jis"),
        "é".encode() + "à côté".encode("cp1252"),
        TEXT.encode() + "old".encode("utf-16-le"),
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        "Häuser in Zürich".encode()[:2] + b" and \xff\xfe\xfd",
    ],
    ids=["cp1251", "gbk", "shift-jis", "two encodings", "UTF-8 and UTF-16", "a picture", "broken"],
)
def test_what_cannot_be_told_is_refused_by_name(content):
    with pytest.raises(TextError, match=r"^notes\.txt is .*; save it as UTF-8$"):
        decoded(content, "notes.txt")


def test_a_cut_text_with_a_mark_is_refused():
    with pytest.raises(TextError, match=r"t is not whole UTF-16-LE \(byte 2\)"):
        decoded(TEXT.encode("utf-16")[:5], "t")


def test_windows_1252_is_said_once(recwarn):
    _warned.clear()
    for _ in range(2):
        decoded(b"H\xe4user", "a.txt")
    assert [str(found.message).partition(";")[0] for found in recwarn] == [
        "a.txt is no UTF-8 and is read as Windows-1252"
    ]


def test_lines_end_at_line_feeds_only():
    assert lines_of("a\u2028b\x85c\x0bd\r\ne\n\nf") == ["a\u2028b\x85c\x0bd", "e", "", "f"]
    assert lines_of("a\rb\r") == ["a", "b"]
    assert lines_of("") == []
    assert lines_of("a\n") == ["a"]


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_json_has_no_numbers_that_are_none(constant):
    with pytest.raises(TextError, match=rf"^f, line 2 is not JSON: it has no {constant}; write null$"):
        parse_json(f'{{"a": {constant}}}', "f, line 2")


def test_json_that_is_too_deep_or_none_is_refused_by_name():
    for text in ("[" * 100_000, "{", "", "{'a': 1}", r'["\ud83d"]'):
        with pytest.raises(TextError, match="^here is not JSON: "):
            parse_json(text, "here")


def test_pairs_of_escapes_are_one_sign():
    assert parse_json(r'["\ud83d\ude00"]', "here") == ["😀"]


def test_lines_of_json_are_named_and_may_be_blank(tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": "x\xe2\x80\xa8y"}\r\n\r\n[1]\n')
    assert list(json_lines(file)) == [(f"{file}, line 1", {"a": "x\u2028y"}), (f"{file}, line 3", [1])]
    file.write_text(json.dumps({"a": 1}) + "\n{")
    with pytest.raises(TextError, match="t.jsonl, line 2 is not JSON"):
        list(json_lines(file))
