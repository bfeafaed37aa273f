"""Files are found under the names that people write for them."""

from unicodedata import normalize

import pytest

from captioner.base import all_existing, existing

NFC, NFD = normalize("NFC", "café ö"), normalize("NFD", "café ö")


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return str(path)


@pytest.mark.parametrize(("there", "written"), [(NFC, NFD), (NFD, NFC)], ids=["NFC", "NFD"])
def test_a_name_is_found_in_another_unicode_form(tmp_path, there, written):
    file = put(tmp_path / there / f"{there}.jpg")
    assert existing(str(tmp_path / written / f"{written}.jpg")) == file
    mixed = normalize("NFC", "café") + normalize("NFD", " ö")
    assert existing(str(tmp_path / written / f"{mixed}.jpg")) == file


def test_a_name_comes_first_as_it_is_written(tmp_path):
    both = [put(tmp_path / NFC), put(tmp_path / NFD), put(tmp_path / " a"), put(tmp_path / "a"), put(tmp_path / "b\\c")]
    put(tmp_path / "b" / "c")
    assert [existing(path) for path in both] == both


def test_spaces_around_a_name_and_backslashes_are_read_as_meant(tmp_path, monkeypatch):
    put(tmp_path / "img" / "a.jpg")
    monkeypatch.chdir(tmp_path)
    for written in ("img/a.jpg ", "img\\a.jpg", "img\\a.jpg "):
        assert existing(written) == "img/a.jpg"


def test_what_is_not_there_is_nothing(tmp_path):
    put(tmp_path / "a.jpg")
    for written in ("b.jpg", "a.jpg/b.jpg", "no/a.jpg", NFD, "", "A.JPG"):
        assert existing(str(tmp_path / written) if written else "") is None


def test_many_are_found_as_each_is(tmp_path):
    there = [put(tmp_path / "a.jpg"), put(tmp_path / "x" / f"{NFD}.jpg")]
    written = [there[0], str(tmp_path / "x" / f"{NFC}.jpg"), str(tmp_path / "y" / "b.jpg")]
    assert all_existing(written) == dict(zip(written, [*there, None], strict=True))
