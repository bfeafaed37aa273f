"""Captions as text files beside the images, for the programs that look for them there.

Knows nothing about records and journals.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ..base import SUFFIXES, OccupiedError, TextError, WriteError, decoded, explaining, replacing

JOINED: dict[str, Callable[[str, str], str]] = {
    "skip": lambda old, new: new,
    "overwrite": lambda old, new: new,
    "append": lambda old, new: f"{old}, {new}",
    "prepend": lambda old, new: f"{new}, {old}",
    "fail": lambda old, new: new,
}
BLANK = b"\0 \t\r\n\xff\xfe\xef\xbb\xbf"  # bytes of files without a word, marks of their encoding included
SHORTEST = 64  # bytes; a longer file is taken for a text without a look


class SidecarError(ValueError):
    """A text that is not written, though those of other images are; the message says why."""


@dataclass(frozen=True)
class Sidecars:
    """Text files beside the images: `photo.txt` for `photo.jpg`, UTF-8, a line per caption, no newline at the end.

    Args:
        extension: with its dot.
        existing: what happens to a text that is there: a key of `JOINED`.

    Raises:
        OccupiedError: the extension is that of images, or none at all.
    """

    extension: str
    existing: str = "skip"

    def __post_init__(self) -> None:
        ending = "." + self.extension.rpartition(".")[2].lower()
        if ending in SUFFIXES:
            raise OccupiedError(f"`--sidecar {self.extension}` would put texts in the place of images; give .txt")
        if not self.extension.strip(". ") or set(self.extension) & {"/", "\\", "\0"}:
            raise OccupiedError(
                f"`--sidecar` must be the ending of a file's name, such as .txt, not {self.extension!r}"
            )

    def path(self, file: str) -> Path:
        """Where the text of an image file goes."""
        return Path(os.path.splitext(file)[0] + self.extension)

    def check_free(self, files: Iterable[str], read: Iterable[str | os.PathLike]) -> None:
        """Make sure that no text would take the place of a file that the run reads.

        Args:
            files: the images.
            read: other files that the run reads.

        Raises:
            OccupiedError: one would.
        """
        files = list(files)
        taken = {os.path.realpath(path) for path in read} | {os.path.abspath(file) for file in files}
        for file in files:
            path = os.path.abspath(self.path(file))
            if path in taken:
                raise OccupiedError(f"the text of {file} would replace {path}, which is read; give another `--sidecar`")

    def has_text(self, file: str) -> bool:
        """Whether there is a text of an image already, with a word in it."""
        path = self.path(file)
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):
                return False
            return found.st_size > SHORTEST or bool(path.read_bytes().strip(BLANK))
        except OSError as error:
            return error.errno == errno.EACCES

    def compose(self, path: Path, captions: Sequence[str]) -> tuple[str, str | None]:
        """What the file shall hold, and a sum of what it holds now.

        Returns:
            The captions, and what the file holds where that is to be kept; the sum, or None where there is no file.

        Raises:
            SidecarError: no text can be written there, or what is there is no text.
        """
        _check_place(path)
        text, content = "\n".join(captions), _content(path)
        if content is None:
            return text, None
        try:
            old = decoded(content, os.fspath(path)).strip()
        except TextError as error:
            if self.existing != "overwrite" or b"\0" in content:
                raise SidecarError(str(error)) from error
            old = ""
        return JOINED[self.existing](old, text) if old else text, total(content)

    def write(self, path: Path, text: str) -> None:
        """Put a text in place, whole or not at all.

        Raises:
            WriteError: it could not be written.
        """
        with explaining(path), replacing(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8", errors="surrogateescape")

    def complete(self, path: Path, text: str, before: str | None) -> None:
        """Put a text in place that a kill has kept from it; what a person wrote there since stays.

        Args:
            before: the sum that `compose` gave with it.

        Raises:
            WriteError: it could not be written.
        """
        try:
            _check_place(path)
        except SidecarError:
            return
        content = _content(path)
        if (None if content is None else total(content)) == before:
            self.write(path, text)


def total(content: bytes) -> str:
    """A short sum of a file's bytes."""
    return sha256(content).hexdigest()[:16]


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WriteError(f"cannot read {path}: {error.strerror}") from error


def _check_place(path: Path) -> None:
    """Make sure that a text can be put there, and beside its image.

    Raises:
        SidecarError: something other than a file is there, such as a link, or the name is too long.
    """
    try:
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            raise SidecarError(f"{path} is a link, and no text is written through it; remove it")
        if not stat.S_ISREG(found.st_mode):
            raise SidecarError(f"{path} is no file, so the text cannot take its place; move it away")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise SidecarError(f"cannot write the text {path.name}: {error.strerror}; shorten the name") from error
