"""Folders of photos with texts beside them become samples, whatever wrote the texts."""

import os
from unicodedata import normalize

import pytest
from annotations import load, photos, refusal, table, write

pytestmark = pytest.mark.usefixtures("own_cache")


def test_each_line_of_a_text_is_a_caption_of_its_photo_at_any_depth(tmp_path):
    photos(tmp_path, "a.png", "deep/er/b.png", "c.d.png", ".hidden/x.png")
    (tmp_path / "a.txt").write_bytes("one\r\n\r\ntwo\u2028too\n".encode("utf-16"))
    write(tmp_path / "deep" / "er" / "b.png.txt", "deep")
    write(tmp_path / "c.d.caption", "dots")
    expected = {"a.png": ["one", "two\u2028too"], "c.d.png": ["dots"], "deep/er/b.png": ["deep"]}
    assert table(load("sidecar", tmp_path)) == expected
    assert table(load("datasets", tmp_path)) == expected


def test_folders_named_like_splits_are_splits(tmp_path):
    photos(tmp_path, "train/a.png", "val/b.png")
    write(tmp_path / "train" / "a.txt", "a")
    write(tmp_path / "val" / "b.txt", "b")
    assert table(load("sidecar", tmp_path)) == {"a.png": ["a"]}
    assert table(load("sidecar", tmp_path, "validation")) == {"b.png": ["b"]}
    assert "has no split 'test' but train, val" in refusal("sidecar", tmp_path, "test")
    assert len(load("sidecar", tmp_path, "all")) == 2
    assert "did you mean 'train'?" in refusal("sidecar", tmp_path / "train", "trian")


def test_photos_without_a_text_or_with_one_that_cannot_be_read_are_counted_and_named(tmp_path):
    photos(tmp_path, *(f"{number}.png" for number in range(8)), "bare.png", "empty.png", "odd.png")
    for number in range(8):
        write(tmp_path / f"{number}.txt", "a circle")
    write(tmp_path / "empty.txt", "\n")
    (tmp_path / "odd.txt").write_bytes("собака бежит".encode("cp1251"))
    samples = load("sidecar", tmp_path, max_bad_share=0.5)
    assert len(samples) == 8
    assert [(bad.kind, bad.id) for bad in samples.bad] == [
        ("empty caption", "bare.png"),
        ("empty caption", "empty.png"),
        ("unreadable caption", "odd.png"),
    ]
    assert "odd.txt is neither UTF-8" in samples.bad[-1].why


def test_names_in_other_forms_and_of_other_bytes_are_read_or_named(tmp_path):
    photos(tmp_path, normalize("NFD", "é.png"), "x.png")
    write(tmp_path / normalize("NFC", "é.txt"), "acute")
    write(tmp_path / "x.txt", "x")
    os.rename(os.fsencode(tmp_path / "x.png"), os.fsencode(tmp_path) + b"/x\xe9.png")
    samples = load("sidecar", tmp_path, max_bad_share=0.5)
    assert [sample["captions"] for sample in samples] == [["acute"]]
    assert [(bad.kind, bad.id, bad.why) for bad in samples.bad] == [
        ("unreadable image", "x\\udce9.png", "its name is no UTF-8; rename it")
    ]
    assert "its name is no UTF-8" in refusal("sidecar", tmp_path)


def test_a_file_is_no_folder_of_photos(tmp_path):
    photos(tmp_path, "a.png")
    assert refusal("sidecar", tmp_path / "a.png").endswith("is a file; give the folder of photos and their texts")
