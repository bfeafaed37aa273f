"""Captions as text files beside the images, for the programs that look for them there.

Knows nothing about records and journals.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base import WriteError, explaining, replacing

JOINED: dict[str, Callable[[str, str], str]] = {
    "skip": lambda old, new: new,
    "overwrite": lambda old, new: new,
    "append": lambda old, new: f"{old}, {new}",
    "prepend": lambda old, new: f"{new}, {old}",
    "fail": lambda old, new: new,
}


@dataclass(frozen=True)
class Sidecars:
    """Text files beside the images: `photo.txt` for `photo.jpg`, UTF-8, a line per caption, no newline at the end.

    Args:
        extension: with its dot.
        existing: what happens to a text that is there: a key of `JOINED`.
    """

    extension: str
    existing: str = "skip"

    def path(self, file: str) -> Path:
        """Where the text of an image file goes."""
        return Path(os.path.splitext(file)[0] + self.extension)

    def compose(self, path: Path, captions: Sequence[str]) -> str:
        """What the file shall hold: the captions, and what it holds now where that is to be kept."""
        text = "\n".join(captions)
        try:
            old = path.read_text(encoding="utf-8", errors="surrogateescape").strip()
        except FileNotFoundError:
            old = ""
        except OSError as error:
            raise WriteError(f"cannot read {path}: {error.strerror}") from error
        return JOINED[self.existing](old, text) if old else text

    def write(self, path: Path, text: str) -> None:
        """Put a text in place, whole or not at all.

        Raises:
            WriteError: it could not be written.
        """
        with explaining(path), replacing(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8", errors="surrogateescape")
