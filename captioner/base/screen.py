"""What a person sees while work goes on: progress bars with rate and time left, and lines beside them.

Silent bars where the output is not a terminal, and on every process but the first.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

console = Console()
errors = Console(stderr=True)

T = TypeVar("T")


class RateColumn(ProgressColumn):
    """Things per second, or seconds per thing when slow."""

    def render(self, task: Task) -> Text:
        """Draw the rate of one bar."""
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each", style="cyan")


class AskingProgress(Progress):
    """Bars of which some ask, each time they are drawn, how much is finished: the field `finished` of their tasks."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Draw all bars as they stand now."""
        for task in self.tasks:
            if "finished" in task.fields:
                self.update(task.id, completed=task.fields["finished"]())
        yield from super().get_renderables()


def is_first_process() -> bool:
    """Whether this process is the one that talks."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def bars() -> Iterator[Progress]:
    """Progress bars for one stretch of work."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    hidden = not (errors.is_terminal and is_first_process())
    with AskingProgress(*columns, console=errors, transient=True, disable=hidden) as shown:
        yield shown


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield the items, counting them on a bar."""
    with bars() as shown:
        yield from shown.track(items, total=total if total is not None else _length(items), description=description)


@contextmanager
def watching(description: str, total: int, finished: Callable[[], int]) -> Iterator[None]:
    """A bar for work that others do too: it asks how much is finished whenever it is drawn."""
    with bars() as shown:
        if total:
            shown.add_task(description, total=total, finished=finished)
        yield


def show(result: RenderableType) -> None:
    """Print a result on the first process."""
    if is_first_process():
        console.print(result)


def _length(items: Iterable) -> int | None:
    return len(items) if hasattr(items, "__len__") else None


def say(text: str) -> None:
    """Print one line on the first process; bars step aside."""
    if is_first_process():
        errors.print(text, markup=False, highlight=False, soft_wrap=True)
