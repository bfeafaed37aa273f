"""What every command shares: one-line errors with their exit codes, and records to write. Knows no command.

Exit codes: 0 done, 1 the work failed in part or whole, 2 the command was used wrongly.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.markup import escape

from ..base import FailureError, WriteError, errors, leave, one_line, replacing, starts_with
from .foreign import explained

LOOKED_AT = 1000  # lines of a file that say what made it
# Of pages that version 0.1.0 made.
PAGE_BEFORE = b"""<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>captioner"""

_debug = [False]  # whether tracebacks are printed


def teaching(command: Callable) -> Callable:
    """Turn whatever goes wrong into one line with what to do and an exit code; several processes part at the end.

    `captioner --debug …` prints the traceback before it.
    """

    @wraps(command)
    def checked(*args: Any, **kwargs: Any) -> None:
        _show_all_letters()
        try:
            with _one_line_each():
                command(*args, **{name: _at_home(value) for name, value in kwargs.items()})
        except typer.Exit:
            leave()
            raise
        leave()

    return checked


def _at_home(value: Any) -> Any:
    """A path whose ~ a shell has left; other values as they are."""
    return value.expanduser() if isinstance(value, Path) and not value.exists() else value


@contextmanager
def _one_line_each() -> Iterator[None]:
    try:
        yield
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except BrokenPipeError:
        with suppress(OSError, ValueError):  # who read the output has gone; nothing is left to say
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except KeyboardInterrupt as error:
        _trace(error)
        fail("stopped by Ctrl-C; what was finished before is kept", code=130)
    except (WriteError, FailureError) as error:
        _trace(error)
        fail(one_line(error) if isinstance(error, FailureError) else str(error), code=1)
    except Exception as error:
        _trace(error)
        ours = isinstance(error, ValueError) and type(error).__module__.startswith("captioner.")
        code, line = (2, " ".join(str(error).split())) if ours else explained(error)
        fail(line, code)


def _trace(error: BaseException) -> None:
    """Print where an error came from, where `--debug` asks for it."""
    if _debug[0]:
        traceback.print_exception(error)


def debugging(
    debug: Annotated[bool, typer.Option("--debug", help="Print where an error came from, before its line.")] = False,
) -> None:
    """An image captioner that looks and reads."""
    _debug[0] = debug


def _show_all_letters() -> None:
    """Escapes in the place of what the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


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
