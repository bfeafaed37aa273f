"""How lists of names and foreign errors read inside a message of one line. Knows nothing about what went wrong."""

from collections.abc import Iterable
from typing import Any


def some(names: Iterable[Any], most: int = 8) -> str:
    """The first names, and how many more there are."""
    names = [str(name) for name in names]
    more = f", … {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more


def one_line(error: BaseException) -> str:
    """What an error says, without its line breaks."""
    return " ".join(str(error.__cause__ or error).split())
