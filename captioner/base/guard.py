"""Whether a file may be written where a person said so: the one question of every command, asked before any work.

No command replaces what it did not make, and none what it reads. Knows nothing about what the files mean.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryFile

from .directories import OccupiedError

START = 4096  # bytes of a file that say what made it


def check_writable(
    file: Path | None,
    option: str = "`--output`",
    ours: Callable[[Path], bool] = lambda file: False,
    read: Mapping[str, Iterable[str | os.PathLike]] | None = None,
) -> None:
    """Refuse a file that could not be written, or that is a person's own; nothing is changed.

    Several processes may ask at once: none makes the file that another would then find.

    Args:
        file: None: nothing is to be written.
        option: what names it, for the message.
        ours: whether a file that is there was made by the same command, or may be replaced for another reason.
        read: files that the command reads or writes elsewhere, by what they are in words.

    Raises:
        OccupiedError: it is a folder, a file that the command reads, or one that it did not make.
        ValueError: it lies in no folder, or cannot be written.
    """
    if file is None:
        return
    for what, paths in (read or {}).items():
        if any(same_file(file, path) for path in paths):
            raise OccupiedError(f"{option} {file} is {what}, which it would replace; name another file")
    try:
        _check_place(file, option)
        if file.is_file() and file.stat().st_size and not ours(file):
            raise OccupiedError(
                f"{option} {file} is a file that this command did not make, so it is not replaced; name another, or "
                "move it away"
            )
        if file.exists():
            file.open("a").close()
        if file.is_file() or not file.exists():
            TemporaryFile(dir=file.resolve().parent).close()  # where `replacing` writes
    except OSError as error:
        raise OccupiedError(f"cannot write to {option} {file}: {error.strerror}; name another file") from error


def _check_place(file: Path, option: str) -> None:
    if file.is_dir():
        raise OccupiedError(f"{option} is the folder {file}; name a file in it")
    if not file.parent.is_dir():
        raise OccupiedError(f"{option} is in {file.parent}, which is no folder; make it first")


def same_file(one: str | os.PathLike, other: str | os.PathLike) -> bool:
    """Whether two paths lead to one file, whether it is there or not."""
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return os.path.realpath(one) == os.path.realpath(other)


def starts_with(file: Path, sign: bytes) -> bool:
    """Whether a sign stands near the start of a file."""
    with file.open("rb") as handle:
        return sign in handle.read(START)
