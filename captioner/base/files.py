"""Files that are there whole, or as they were before. Knows nothing about what is in them."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PHOTOS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".webp", ".avif", ".heic", ".heif")
# Suffixes of images.
CAMERAS = (".mpo", ".jp2", ".j2k", ".jpf", ".jpx", ".jpg_large", ".jpg-large", ".jpeg_large", ".png_large")
DRAWN = (".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico")
SUFFIXES = frozenset((*PHOTOS, *CAMERAS, *DRAWN))
NAMED = 40  # letters of a file's name that the name beside it repeats: shorter than file systems allow


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
    unfinished = file.with_name(f".{file.name[:NAMED]}.{secrets.token_hex(6)}.tmp")
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
