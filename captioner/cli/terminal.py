"""What every command shares: one-line errors with their exit codes, and files to write. Knows no command.

Exit codes: 0 done, 1 the work failed in part or whole, 2 the command was used wrongly.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NoReturn

import typer
from rich.markup import escape

from ..base import WriteError, errors, leave, replacing


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
    except WriteError as error:
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


def writable(path: Path | None, option: str = "--output") -> None:
    """Refuse an output that could not be written, before any work is done.

    Several processes may ask at once: none makes the file that another would then find.
    """
    if path is None:
        return
    try:
        if path.is_dir():
            fail(f"`{option}` is the folder {path}; name a file in it", code=2)
        if not path.parent.is_dir():
            fail(f"`{option}` is in {path.parent}, which is no folder; make it first", code=2)
        if path.exists():
            path.open("a").close()
        if path.is_file() or not path.exists():
            TemporaryFile(dir=path.resolve().parent).close()  # where `replacing` writes
    except OSError as error:
        fail(f"cannot write to `{option}` {path}: {error.strerror}", code=2)


def write(records: Iterable[dict[str, Any]], output: Path) -> None:
    """Write records to a file, a line of JSON each."""
    with replacing(output) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
