"""One question of every command that writes a file: is there something of a person's?"""

import os

import pytest

from captioner.base import OccupiedError, check_writable, starts_with


def test_a_new_an_empty_and_an_own_file_may_be_written_and_stay_as_they_are(tmp_path):
    new, empty, own = (tmp_path / name for name in ("new", "empty", "own"))
    empty.write_text("")
    own.write_text("mine")
    check_writable(new)
    check_writable(empty)
    check_writable(own, ours=lambda file: starts_with(file, b"mine"))
    check_writable(None)
    check_writable(type(own)("/dev/null"))
    assert sorted(os.listdir(tmp_path)) == ["empty", "own"]
    assert own.read_text() == "mine"


@pytest.mark.parametrize("spelling", ["photo.jpg", "./sub/../photo.jpg", "link.jpg"])
def test_a_file_that_is_read_is_refused_in_any_spelling(tmp_path, monkeypatch, spelling):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "photo.jpg").write_text("x")
    (tmp_path / "link.jpg").symlink_to("photo.jpg")
    with pytest.raises(OccupiedError, match="is the photo, which it would replace; name another file"):
        check_writable(type(tmp_path)(spelling), ours=lambda file: True, read={"the photo": ["photo.jpg"]})


def test_what_this_command_did_not_make_is_refused_with_its_remedy(tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(OccupiedError, match="`--output` .*notes is a file that this command did not make"):
        check_writable(tmp_path / "notes")
    with pytest.raises(OccupiedError, match="`--report` is the folder"):
        check_writable(tmp_path, "`--report`")
    with pytest.raises(OccupiedError, match="which is no folder; make it first"):
        check_writable(tmp_path / "no/where")
    with pytest.raises(OccupiedError, match="File name too long"):
        check_writable(tmp_path / ("x" * 300))
