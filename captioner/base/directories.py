"""Directories that are there whole, or as they were before, and that never take the place of what is not ours.

Each that `whole` makes holds a mark with the names of its files; only what has the mark is replaced or removed, and of
that only what the mark names. Knows nothing about what is in them.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from safetensors import SafetensorError

from .files import WriteError
from .wording import one_line

MARK = ".captioner.json"


class OccupiedError(ValueError):
    """Where this package would write lies something that it did not make; the message says what and what to do."""


@contextmanager
def whole(directory: Path) -> Iterator[Path]:
    """A fresh directory to fill, which then takes the place of `directory`; where filling fails, nothing changes.

    Files that somebody put into `directory` after it was made are moved into the new one.

    Raises:
        OccupiedError: `directory` holds something and was not made by `whole`, or is no directory.
        WriteError: the disk is full or cannot be written.
    """
    recover(directory)
    check_replaceable(directory)
    directory = directory.resolve()
    fresh, old = unfinished_place(directory), _aside(directory)
    for place in (fresh, old):
        check_replaceable(place)
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        _mark(fresh, [])
        yield fresh
        _mark(fresh, _files(fresh))
        for path in (*fresh.rglob("*"), fresh):
            _to_disk(path)
        if directory.exists():
            directory.rename(old)
        fresh.rename(directory)
        _to_disk(directory.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise WriteError(
            f"cannot write {directory}: {one_line(error)}; what was saved before it is whole: make room on the disk, "
            "then go on with --resume"
        ) from error
    _let_go(old, directory)


def unfinished_place(directory: Path) -> Path:
    """Where `whole` fills the directory that will take this one's place."""
    directory = directory.resolve()
    return directory.with_name(directory.name + ".new")


def check_replaceable(directory: Path) -> None:
    """Make sure that a directory may be written by `whole`: it is not there, is empty, or was made by it.

    Raises:
        OccupiedError: none of these.
    """
    if directory.is_dir():
        if made_here(directory) or not any(directory.iterdir()):
            return
        kind = "folder with files"
    elif not directory.exists():
        return
    else:
        kind = "file"
    raise OccupiedError(
        f"{directory} is a {kind} that captioner did not make, so it is not replaced; name a new folder, or "
        "move it away"
    )


def made_here(directory: Path) -> bool:
    """Whether `whole` made a directory."""
    return _own(directory) is not None


def claim(directory: Path, patterns: Iterable[str]) -> None:
    """Let a directory that is known to be this package's, but has no mark, count as made by `whole`.

    Args:
        patterns: of the names of files in it that are this package's, such as "*.safetensors".
    """
    if directory.is_dir() and not made_here(directory):
        _mark(directory, [name for name in _files(directory) if any(fnmatch(name, own) for own in patterns)])


def remove(directory: Path) -> None:
    """Remove what `whole` wrote there, and the directory if nothing else lies in it; what it did not make is left."""
    for name in _own(directory) or ():
        (directory / name).unlink(missing_ok=True)
    if made_here(directory):
        (directory / MARK).unlink()
        _remove_empty(directory)


def recover(directory: Path) -> None:
    """Put back what a kill between the two renames of `whole` left aside."""
    directory = directory.resolve()
    old = _aside(directory)
    if made_here(old):
        if directory.exists():
            _let_go(old, directory)
        else:
            old.rename(directory)


def _aside(directory: Path) -> Path:
    return directory.with_name(directory.name + ".old")


def _let_go(old: Path, directory: Path) -> None:
    """Remove a directory that was replaced, after what is not ours in it was moved into the one that replaces it."""
    if not old.is_dir():
        return
    for name in set(_files(old)) - {MARK, *(_own(old) or ())}:
        target = directory / name
        while target.exists():
            target = target.with_name(f"{target.name}.kept")
        target.parent.mkdir(parents=True, exist_ok=True)
        (old / name).rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _files(directory: Path) -> list[str]:
    """The files below a directory, and links, by their names from there."""
    paths = (path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path.relative_to(directory).as_posix() for path in paths)


def _mark(directory: Path, files: Iterable[str]) -> None:
    (directory / MARK).write_text(json.dumps({"files": [name for name in files if name != MARK]}))


def _own(directory: Path) -> list[str] | None:
    """The files of a directory that its mark names; None without a mark."""
    try:
        files = json.loads((directory / MARK).read_text(encoding="utf-8"))["files"]
        return [name for name in files if ".." not in Path(name).parts and not Path(name).is_absolute()]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remove_empty(directory: Path) -> None:
    for path in (*sorted(directory.rglob("*"), reverse=True), directory):
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
