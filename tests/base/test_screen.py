"""The bar of a job that several processes share: what it says."""

import io

from rich.console import Console

from captioner.base import screen


def test_a_bar_shows_what_is_finished_whenever_it_is_drawn(monkeypatch):
    shown, finished = io.StringIO(), [3]
    monkeypatch.setattr(screen, "errors", Console(file=shown, force_terminal=True, width=100))
    with screen.watching("captioning", 20, lambda: finished[0]):
        finished[0] = 7
    assert "7/20" in shown.getvalue()
