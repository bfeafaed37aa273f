"""Rows of a data set as every source brings them: images, further modalities, and the texts that go with them.

Knows nothing about files of annotations, samples or models; nothing is opened.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import pyarrow.compute
from datasets import Dataset, Features, Image, List, Value, concatenate_datasets

from ..base import DataSettings, existing, some
from ..model import as_list, each
from .cells import listed
from .faults import Bad, DataError
from .places import folder_of

COMPRESSED = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"GIF8")  # how their files begin
BLOCKS, BLOCK_SIZE = 16, 4096  # of a compressed image that are looked at, and their bytes


class Cells(NamedTuple):
    """The texts of R rows as a source holds them; None: the source has no such column."""

    captions: Sequence[Any]
    contexts: Sequence[Any] | None = None
    ids: Sequence[Any] | None = None


@dataclass
class Rows:
    """What a reader found: R rows, one per image or one per caption, in the order of the source."""

    images: Dataset  # the column `image`, and one for each further modality
    keys: list[
        tuple[Hashable, ...] | None
    ]  # equal where the image is the same; None: nothing but its place tells it from others
    names: list[str]  # what an image is called where the source gives no id
    files: list[list[str]]  # of each row, that must exist
    cells: Cells
    origin: str = ""  # the same where two splits are cut from the same rows
    places: Sequence[int] | None = None  # of the rows in their origin; None: they are all of it
    embedded: bool = False  # whether images are in the source itself; their keys are then name and size, and maybe more
    blank: frozenset[int] = frozenset()  # rows whose cell has no image
    faults: dict[int, tuple[str, str]] = field(default_factory=dict)  # row → the kind and why of what it lacks
    notes: list[Bad] = field(default_factory=list)  # what is wrong with the source besides


def holds_paths(kind: Any) -> bool:
    """Whether a column holds text, or lists of text."""
    return getattr(getattr(kind, "feature", kind), "dtype", None) in ("string", "large_string")


def file_rows(
    roots: Sequence[Path], names: Sequence[str | list[str] | None], cells: Cells, origin: Any = "", split: str = ""
) -> Rows:
    """Rows of images that are files.

    Args:
        names: relative to a root or to a folder up to two levels below; a list where a sample has several images.
        origin: of the rows; see `Rows`.
        split: whose folder is taken where several have files of these names.

    Raises:
        DataError: as in `folder_of`.
    """
    names = [listed(own) for own in names]
    folder = folder_of([name for own in names for name in as_list(own) if name], roots, split)
    files = [each(lambda name: os.path.join(folder, name) if name else None, own) for own in names]
    fallback = [", ".join(filter(None, as_list(own))) or str(row) for row, own in enumerate(names)]
    several = any(isinstance(own, list) for own in files)
    kind = List(Value("string")) if several else Value("string")
    columns = {"image": [as_list(own) for own in files] if several else files}
    images = Dataset.from_dict(columns, features=Features({"image": kind}))
    own_files = [list(filter(None, as_list(own))) for own in files]
    keys = [tuple(map(_spelt, own)) or None for own in own_files]
    return Rows(images, keys, fallback, own_files, cells, str(origin), blank=_blank([bool(own) for own in own_files]))


def _blank(present: Sequence[bool]) -> frozenset[int]:
    """The rows without an image."""
    return frozenset(row for row, there in enumerate(present) if not there)


def _spelt(file: str) -> str:
    """One spelling of a path, however it is written."""
    return normalize("NFC", os.path.normpath(file))


def embedded_rows(images: Dataset, cells: Cells) -> Rows:
    """Rows of an Arrow column of images: the same where original name and number of bytes are; see `told_apart`.

    Lists of images are all different.
    """
    kind, encoded = images.features["image"], Image(decode=False)
    several = isinstance(kind, List)
    try:
        images = images.cast_column("image", List(encoded) if several else encoded)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise DataError(
            f"the image column must hold images or paths, but holds {kind}; set `data.image_column`"
        ) from error
    if several:
        rows = range(len(images))
        return Rows(images, [None for _ in rows], [str(row) for row in rows], [[] for _ in rows], cells)
    column = images.with_format("arrow")[:]["image"]
    paths = pyarrow.compute.struct_field(column, "path").to_pylist()
    sizes = pyarrow.compute.binary_length(pyarrow.compute.struct_field(column, "bytes")).to_pylist()
    keys = [(path, size) if path else None for path, size in zip(paths, sizes, strict=True)]
    names = [os.path.basename(path) if path else str(row) for row, path in enumerate(paths)]
    files = [[path] if path and size is None else [] for path, size in zip(paths, sizes, strict=True)]
    there = [path is not None or size is not None for path, size in zip(paths, sizes, strict=True)]
    return Rows(images, keys, names, files, cells, embedded=True, blank=_blank(there))


def told_apart(rows: Rows) -> Rows:
    """The same embedded rows, where different images of one name and size, or of one id, have keys of their own."""
    if not rows.embedded:
        return rows
    column = rows.images.with_format("arrow")[:]["image"]
    same = defaultdict(list)
    for row, (key, name) in enumerate(zip(rows.keys, rows.cells.ids or [None] * len(rows.keys), strict=True)):
        if row not in rows.blank and (name is not None if key is None else key[1] is not None):
            same[key or name].append(row)
    keys = list(rows.keys)
    for own in same.values():
        for row in own if len(own) > 1 else ():
            path, size = keys[row] or (None, None)
            keys[row] = (path, size, _digest(column[row]["bytes"].as_buffer()))
    return replace(rows, keys=keys)


def _digest(content: Any) -> bytes:
    """Of an encoded image; of a compressed one parts are enough, since they are never like those of another."""
    view = memoryview(content)
    parts: Iterable[memoryview] = [view]
    if bytes(view[:4]).startswith(COMPRESSED):
        starts = (*range(0, len(view), max(len(view) // BLOCKS, BLOCK_SIZE)), max(len(view) - BLOCK_SIZE, 0))
        parts = (view[start : start + BLOCK_SIZE] for start in starts)
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()


def with_modalities(
    rows: Rows, columns: Mapping[str, Any], settings: DataSettings, roots: Sequence[Path], split: str
) -> Rows:
    """The rows with the columns of `data.modality_columns`: numbers, or paths of files relative to a root.

    Raises:
        DataError: a column that there is not, or files that are not there.
    """
    images = rows.images
    for name, column in settings.modality_columns.items():
        check_modality_column(name, columns, settings)
        values = columns[column][:]
        if any(isinstance(value, str) for value in values):
            values = _full_paths(values, name, roots, split)
        images = concatenate_datasets([images, Dataset.from_dict({name: values})], axis=1)
    return replace(rows, images=images)


def check_modality_column(name: str, columns: Collection[str], settings: DataSettings) -> None:
    """Make sure that there is the column that the settings name for a modality.

    Raises:
        DataError: there is not.
    """
    column = settings.modality_columns[name]
    if column not in columns:
        raise DataError(
            f"{settings.path} has no column {column!r} but {some(columns, 20)}; set "
            f"`data.modality_columns.{name}` to one of them"
        )


def _full_paths(paths: Sequence[str | None], name: str, roots: Sequence[Path], split: str) -> list[str | None]:
    """Paths of features in full, each with the key behind its file; see `full_path`."""
    folder = folder_of([path for own in paths if own for path in _readings(own)], roots, split)
    found = [path and full_path(folder, path) for path in paths]
    missing = [path for path in found if path and not any(map(os.path.isfile, _readings(path)))]
    if missing:
        raise DataError(f"{len(missing)} files of `{name}` are missing: {some(missing, 3)}; put them there")
    return found


def full_path(folder: str | os.PathLike, path: str) -> str:
    """A path below a folder as it is on the disk; what stands behind the last "#" may be a key in the file."""
    for reading in _readings(path):
        found = existing(os.path.join(folder, reading))
        if found is not None:
            return found + path[len(reading) :]
    return os.path.join(folder, path)


def _readings(path: str) -> list[str]:
    """The file that a path names if "#" is a sign of its name, and if a key stands behind it."""
    return list(dict.fromkeys((path, path.rpartition("#")[0] or path)))
