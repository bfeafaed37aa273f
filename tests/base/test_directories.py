"""Directories that are there whole or as before, and never in the place of what somebody else made."""

import os
from pathlib import Path

import pytest

from captioner.base import OccupiedError, WriteError, check_replaceable, claim, made_here, recover, remove, whole


def fill(directory, **files):
    with whole(directory) as fresh:
        for name, text in files.items():
            (fresh / name).write_text(text)


def content(directory):
    """Names → texts of the files below a directory, without the mark."""
    files = (path for path in Path(directory).rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(directory)): path.read_text() for path in files}


def test_what_was_made_here_is_replaced_whole(tmp_path):
    fill(tmp_path / "best", a="1", b="1")
    fill(tmp_path / "best", a="2")
    assert content(tmp_path) == {"best/a": "2"}
    assert os.listdir(tmp_path) == ["best"]


def folder(path):
    path.mkdir()
    (path / "notes").write_text("mine")


def deep(path):
    (path / "sub").mkdir(parents=True)
    (path / "sub/notes").write_text("mine")


def hidden(path):
    path.mkdir()
    (path / ".notes").write_text("mine")


def link(path):
    folder(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def broken_mark(path):
    folder(path)
    (path / ".captioner.json").write_text("{")


@pytest.mark.parametrize("make", [folder, deep, hidden, link, broken_mark, lambda path: path.write_text("mine")])
def test_what_somebody_else_made_is_never_replaced(tmp_path, make):
    make(tmp_path / "mine")
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(OccupiedError, match="mine is a (folder with files|file) that captioner did not make, so it is"):
        fill(tmp_path / "mine", a="1")
    with pytest.raises(OccupiedError):
        check_replaceable(tmp_path / "mine")
    remove(tmp_path / "mine")
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["best.new", "best.old"])
def test_the_names_beside_it_are_not_taken_from_anybody(tmp_path, name):
    folder(tmp_path / name)
    recover(tmp_path / "best")
    with pytest.raises(OccupiedError, match=name):
        fill(tmp_path / "best", a="1")
    assert content(tmp_path) == {f"{name}/notes": "mine"}


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "best").mkdir()
    fill(tmp_path / "best", a="1")
    assert content(tmp_path) == {"best/a": "1"}
    assert os.listdir(tmp_path) == ["best"]


def test_files_that_somebody_put_into_it_move_on_into_the_new_one(tmp_path):
    fill(tmp_path / "best", a="1")
    deep(tmp_path / "best/mine")
    (tmp_path / "best/b").write_text("mine")
    fill(tmp_path / "best", a="2", b="2")
    assert content(tmp_path / "best") == {"a": "2", "b": "2", "b.kept": "mine", "mine/sub/notes": "mine"}
    fill(tmp_path / "best", a="3")
    assert content(tmp_path / "best") == {"a": "3", "b.kept": "mine", "mine/sub/notes": "mine"}
    assert os.listdir(tmp_path) == ["best"]


def test_removing_leaves_what_somebody_put_into_it(tmp_path):
    fill(tmp_path / "best", a="1")
    remove(tmp_path / "best")
    assert not (tmp_path / "best").exists()
    fill(tmp_path / "best", a="1")
    folder(tmp_path / "best/mine")
    remove(tmp_path / "best")
    assert content(tmp_path) == {"best/mine/notes": "mine"}


def test_a_kill_at_any_moment_leaves_the_old_or_the_new_one_and_what_was_put_into_it(tmp_path, monkeypatch):
    renames = 0

    def deadly(path, target, real=Path.rename):
        nonlocal renames
        renames += 1
        if renames == deaths:
            raise KeyboardInterrupt
        return real(path, target)

    monkeypatch.setattr(Path, "rename", deadly)
    for deaths in range(1, 5):  # aside, into place, twice what was put into it
        directory = tmp_path / str(deaths) / "best"
        directory.parent.mkdir()
        renames = -10
        fill(directory, a="1")
        (directory / "notes").write_text("mine")
        (directory / "more").write_text("mine")
        renames = 0
        with pytest.raises(KeyboardInterrupt):
            fill(directory, a="2")
        recover(directory)
        assert content(directory) == {"a": "1" if deaths < 3 else "2", "notes": "mine", "more": "mine"}
        fill(directory, a="3")
        assert content(directory.parent) == {"best/a": "3", "best/notes": "mine", "best/more": "mine"}


def test_work_that_fails_leaves_the_directory_and_nothing_beside_it(tmp_path):
    fill(tmp_path / "best", a="1")

    def fail():
        with whole(tmp_path / "best") as fresh:
            (fresh / "a").write_text("2")
            raise OSError("full")

    with pytest.raises(WriteError, match="cannot write .*best: .*full"):
        fail()
    assert content(tmp_path) == {"best/a": "1"}
    assert os.listdir(tmp_path) == ["best"]


def test_a_link_goes_on_to_lead_to_its_directory(tmp_path):
    fill(tmp_path / "disk", a="1")
    (tmp_path / "best").symlink_to("disk")
    fill(tmp_path / "best", a="2")
    assert (tmp_path / "best").is_symlink()
    assert content(tmp_path / "disk") == {"a": "2"}


def test_a_directory_may_be_claimed_for_this_package_but_not_what_lies_beside_its_files(tmp_path):
    folder(tmp_path / "best")
    (tmp_path / "best/config.json").write_text("{}")
    (tmp_path / "best/model.safetensors").write_text("old")
    claim(tmp_path / "best", ("*.json", "*.safetensors"))
    assert made_here(tmp_path / "best")
    fill(tmp_path / "best", a="1")
    assert content(tmp_path / "best") == {"a": "1", "notes": "mine"}


def test_a_mark_names_nothing_outside_its_directory(tmp_path):
    fill(tmp_path / "best", a="1")
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "best/.captioner.json").write_text(f'{{"files": ["../mine", "{tmp_path}/mine", "a"]}}')
    remove(tmp_path / "best")
    assert content(tmp_path) == {"mine": "mine"}
