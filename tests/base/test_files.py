"""Files that are there whole, or as they were before; and the question whether one could be written."""

import os
from pathlib import Path
from threading import Thread

import pytest

from captioner.base import OccupiedError, check_writable, replacing


def test_a_file_is_as_it_was_until_the_new_one_is_whole(tmp_path):
    file = tmp_path / "captions.jsonl"
    file.write_text("old")
    with replacing(file) as unfinished:
        unfinished.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert os.listdir(tmp_path) == [file.name]


def test_work_that_fails_leaves_the_file_and_nothing_beside_it(tmp_path):
    file = tmp_path / "captions.jsonl"
    file.write_text("old")

    def fail():
        with replacing(file) as unfinished:
            unfinished.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == [file.name]


def test_a_link_goes_on_to_lead_to_its_file(tmp_path):
    file, link = tmp_path / "a.txt", tmp_path / "b.txt"
    file.write_text("old")
    link.symlink_to(file)
    with replacing(link) as unfinished:
        unfinished.write_text("new")
    assert link.is_symlink()
    assert file.read_text() == "new"


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got = []
    reader = Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    with replacing(pipe) as unfinished:
        unfinished.write_text("caption")
    reader.join(timeout=10)
    assert got == ["caption"]
    assert pipe.is_fifo()


def test_the_longest_names_can_be_replaced(tmp_path):
    file = tmp_path / ("ü" * 125 + ".txt")
    with replacing(file) as unfinished:
        unfinished.write_text("new")
    assert file.read_text() == "new"


def test_processes_that_ask_for_the_same_output_never_see_each_other(tmp_path, monkeypatch):
    opened, real = [], Path.open
    monkeypatch.setattr(Path, "open", lambda path, *given, **named: opened.append(path) or real(path, *given, **named))
    check_writable(tmp_path / "captions.jsonl")
    assert opened == []
    assert os.listdir(tmp_path) == []


def test_asking_for_an_output_that_is_there_leaves_it_as_it_is(tmp_path):
    file = tmp_path / "captions.jsonl"
    file.write_text("old")
    check_writable(file, ours=Path.is_file)
    assert file.read_text() == "old"


def test_a_link_is_asked_where_it_leads(tmp_path):
    link = tmp_path / "captions.jsonl"
    link.symlink_to(tmp_path / "no" / "captions.jsonl")
    with pytest.raises(OccupiedError, match="No such file or directory"):
        check_writable(link)


@pytest.mark.parametrize(
    ("name", "why"), [("", "is the folder"), ("no/x", "which is no folder"), ("x" * 300, "File name too long")]
)
def test_an_output_that_cannot_be_written_is_explained(tmp_path, name, why):
    with pytest.raises(OccupiedError, match=why):
        check_writable(tmp_path / name)
