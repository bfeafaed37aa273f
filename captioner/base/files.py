"""Files and folders that are there whole, or as they were before. Knows nothing about what is in them."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from .wording import one_line

PHOTOS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".webp", ".avif", ".heic", ".heif")
# Suffixes of images.
SUFFIXES = frozenset((*PHOTOS, ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico"))
NAMED = 40  # letters of a file's name that the name beside it repeats: no longer than file systems allow


class WriteError(OSError):
    """A write that failed: disk full, permission revoked, …; what was written before is whole."""


@contextmanager
def explaining(file: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is written into a `WriteError` that names it."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"cannot write {file}: {error.strerror or error}") from error


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A name to write to, beside a file; when all is written and on the disk, it takes the file's place at once.

    What is no file, such as a terminal or a pipe, is written to as it is; a link goes on to lead to its file.

    Raises:
        OSError: it could not be written; the file is as it was.
    """
    if file.exists() and not file.is_file():
        yield file
        return
    file = file.resolve()
    unfinished = file.with_name(f".{file.name[:NAMED]}.{os.getpid()}.tmp")
    try:
        yield unfinished
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all.

    Raises:
        OSError: as `replacing`.
    """
    with replacing(file) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


@contextmanager
def whole(directory: Path) -> Iterator[Path]:
    """A fresh directory to fill, which then takes the place of `directory`; where filling fails, nothing changes.

    Raises:
        WriteError: the disk is full or cannot be written.
    """
    fresh, old = directory.with_name(directory.name + ".new"), directory.with_name(directory.name + ".old")
    try:
        recover(directory)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        yield fresh
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
    shutil.rmtree(old, ignore_errors=True)


def recover(directory: Path) -> None:
    """Put back what a kill between the two renames of `whole` left aside."""
    old = directory.with_name(directory.name + ".old")
    if old.exists() and not directory.exists():
        old.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
