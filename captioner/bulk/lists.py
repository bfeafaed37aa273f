"""Lists of paths and of texts as people write them, and files by the names in them.

Names of files are kept as the system gives them, whatever their bytes. Knows nothing about images.
"""

import os
import sys
from pathlib import Path

from ..base import TextError, decoded, existing, lines_of

MARKS_OF_WIDE = (b"\xff\xfe", b"\xfe\xff")  # UTF-16 and UTF-32
QUOTES = "\"'"


class InputError(ValueError):
    """Input that cannot be used; the message says what would work."""


def read_list(path: str) -> list[str]:
    """Paths of any bytes, a line each, or with NUL between them as `find -print0` writes.

    A line that names no file is taken without spaces and quotes around it; without these, what starts with # is a
    comment.

    Raises:
        InputError: it cannot be read.
    """
    try:
        content = Path(path).read_bytes()
        if content.startswith(MARKS_OF_WIDE):
            lines = lines_of(decoded(content, path))
        else:
            content = content.removeprefix(b"\xef\xbb\xbf")
            lines = [os.fsdecode(line) for line in (content.split(b"\0") if b"\0" in content else content.splitlines())]
    except OSError as error:
        raise InputError(f"cannot read the list {path!r}: {error.strerror}") from error
    except TextError as error:
        raise InputError(str(error)) from error
    folder = os.path.dirname(path)
    return [name for line in lines if line.strip() and (name := _meant(line, folder))]


def _meant(line: str, folder: str) -> str:
    """The name that a line holds; nothing for a comment."""
    bare = line.strip()
    odd = bare != line or bare.startswith("#") or bare[0] in QUOTES
    if not odd or _is_there(line, folder):
        return line
    if bare[0] in QUOTES and bare[-1] == bare[0]:
        bare = bare[1:-1].strip()
    return "" if bare.startswith("#") and not _is_there(bare, folder) else bare


def _is_there(name: str, folder: str) -> bool:
    return os.path.lexists(os.path.join(folder, name)) or os.path.lexists(name)


def locate(name: str, folder: str) -> str:
    """A path written in a file: beside that file, or else from where one stands, or either in another spelling."""
    name = os.path.expanduser(name) if name.startswith("~") and not os.path.lexists(name) else name
    beside = os.path.join(folder, name)
    if os.path.lexists(beside):
        return beside
    if os.path.lexists(name):
        return name
    return existing(beside) or existing(name) or beside


def read_texts(path: str) -> list[str]:
    """The lines of a text file, or of standard input ("-"), without blank ones.

    Raises:
        InputError: a file that cannot be read, or nothing in it.
    """
    try:
        content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        lines = lines_of(decoded(content, "the standard input" if path == "-" else path))
    except OSError as error:
        raise InputError(f"cannot read the texts {path!r}: {error.strerror}") from error
    except TextError as error:
        raise InputError(f"cannot read the texts: {error}") from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise InputError(f"no texts in {path!r}: write one per line")
    return texts
