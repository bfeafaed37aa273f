"""The bar of a job that several processes share: what it counts, and what it says."""

import io

from rich.console import Console

from captioner.base import screen
from captioner.bulk.journal import Journal


def test_whole_lines_of_every_process_of_the_shard_are_counted_once(tmp_path):
    (tmp_path / "1-of-2.0.jsonl").write_bytes(b"{}\n{}\n")  # of a run before
    tally = Journal(tmp_path, (1, 2)).tally(processes=2)
    assert tally() == 0
    with (tmp_path / "1-of-2.0.jsonl").open("ab") as one, (tmp_path / "1-of-2.1.jsonl").open("ab") as other:
        one.write(b"{}\n{")
        other.write(b"{}\n{}\n")
        (tmp_path / "2-of-2.0.jsonl").write_bytes(b"{}\n")  # of another shard
        one.flush(), other.flush()
        assert tally() == 3
        one.write(b"}\n")
        one.flush()
        assert tally() == tally() == 4


def test_a_bar_shows_what_is_finished_whenever_it_is_drawn(monkeypatch):
    shown, finished = io.StringIO(), [3]
    monkeypatch.setattr(screen, "errors", Console(file=shown, force_terminal=True, width=100))
    with screen.watching("captioning", 20, lambda: finished[0]):
        finished[0] = 7
    assert "7/20" in shown.getvalue()
