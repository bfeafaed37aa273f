"""`captioner demo`: everything that the package does, offline, in a few minutes; the trip is in `pages/demo.py`."""

from pathlib import Path
from typing import Annotated

import typer

from ..base import check_writable, starts_with
from .terminal import is_page, teaching


@teaching
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML page to write.")] = Path(
        "captioner-demo.html"
    ),
    scenes: Annotated[int, typer.Option(min=1, help="Unseen scenes per level and row of the table.")] = 200,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the live training; default: two minutes.")] = None,
) -> None:
    """Show it all, offline: what the shipped captioners see and read, a training while you watch, a page to keep."""
    from ..pages import SCENE, SIGNED, run_demo

    check_writable(output, ours=is_page)
    check_writable(output.with_name(SCENE), "the picture of a scene", lambda file: starts_with(file, SIGNED.encode()))
    run_demo(output, scenes, steps)
