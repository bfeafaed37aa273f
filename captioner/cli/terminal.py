"""What every command shares: one-line errors with their exit codes, and records to write. Knows no command.

Exit codes: 0 done, 1 the work failed in part or whole, 2 the command was used wrongly.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.markup import escape

from ..base import FailureError, WriteError, errors, leave, replacing, starts_with

LOOKED_AT = 1000  # lines of a file that say what made it
# Of pages that version 0.1.0 made.
PAGE_BEFORE = b"""<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>captioner"""


def teaching(command: Callable) -> Callable:
    """Turn mistakes that the package explains into one line and exit code 2; several processes part at the end."""

    @wraps(command)
    def checked(*args: Any, **kwargs: Any) -> None:
        try:
            with _explained():
                command(*args, **kwargs)
        except typer.Exit:
            leave()
            raise
        leave()

    return checked


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (WriteError, FailureError) as error:
        fail(str(error), code=1)
    except ValueError as error:
        if not type(error).__module__.startswith("captioner."):
            raise
        fail(str(error), code=2)


def fail(message: str, code: int) -> NoReturn:
    """Say what went wrong in one line and leave."""
    errors.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def quiet() -> None:
    """Our own bars are enough: none from transformers for loading and saving."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def write(records: Iterable[dict[str, Any]], output: Path) -> None:
    """Write records to a file, a line of JSON each."""
    with replacing(output) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def holds_lines(file: Path, keys: Iterable[str]) -> bool:
    """Whether a file holds lines of JSON with these keys and no others, as `write` leaves them."""
    wanted = set(keys)
    try:
        with file.open(encoding="utf-8") as lines:
            return all(set(json.loads(line)) == wanted for line in islice(lines, LOOKED_AT))
    except (OSError, ValueError, TypeError):
        return False


def is_page(file: Path) -> bool:
    """Whether a file is a page that this package made."""
    return starts_with(file, b'<meta name="generator" content="captioner">') or starts_with(file, PAGE_BEFORE)
