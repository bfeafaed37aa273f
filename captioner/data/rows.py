"""Rows of a data set as every source brings them: images, further modalities, and the texts that go with them.

Knows nothing about files of annotations, samples or models; nothing is opened.
"""

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute
from datasets import Dataset, Features, Image, List, Value, concatenate_datasets

from ..base import DataSettings, some
from ..model import as_list, each


class DataError(ValueError):
    """Data that cannot be used; the message says what was looked for, what is there, and the remedy."""


class Cells(NamedTuple):
    """The texts of R rows as a source holds them; None: the source has no such column."""

    captions: Sequence[Any]
    contexts: Sequence[Any] | None = None
    ids: Sequence[Any] | None = None


@dataclass
class Rows:
    """What a reader found: R rows, one per image or one per caption, in the order of the source."""

    images: Dataset  # the column `image`, and one for each further modality
    keys: list[Hashable]  # equal where the image is the same
    names: list[str]  # what an image is called where the source gives no id
    files: list[list[str]]  # of each row, that must exist
    cells: Cells


def folders(root: Path, depth: int) -> Iterator[Path]:
    """A folder and its subfolders down to a depth, or the folder of a file."""
    folder = root if root.is_dir() else root.parent
    yield folder
    if depth:
        for path in sorted(entry.path for entry in os.scandir(folder) if entry.is_dir()):
            yield from folders(Path(path), depth - 1)


def _folder_of(names: Sequence[str], roots: Sequence[Path]) -> Path:
    """The root, or the folder up to two levels below one, that holds the first files."""
    places = (folder for root in roots for folder in folders(root, 2))
    found = (folder for folder in places if any((folder / name).is_file() for name in names[:20]))
    return next(found, None) or next(folders(roots[0], 0))


def holds_paths(kind: Any) -> bool:
    """Whether a column holds text, or lists of text."""
    return getattr(getattr(kind, "feature", kind), "dtype", None) in ("string", "large_string")


def file_rows(roots: Sequence[Path], names: Sequence[str | list[str] | None], cells: Cells) -> Rows:
    """Rows of images that are files.

    Args:
        names: relative to a root or to a folder up to two levels below; a list where a sample has several images.
    """
    folder = _folder_of([name for own in names for name in as_list(own) if name], roots)
    files = [each(lambda name: os.path.join(folder, name) if name else None, own) for own in names]
    fallback = [", ".join(filter(None, as_list(own))) or str(row) for row, own in enumerate(names)]
    several = any(isinstance(own, list) for own in files)
    kind = List(Value("string")) if several else Value("string")
    columns = {"image": [as_list(own) for own in files] if several else files}
    images = Dataset.from_dict(columns, features=Features({"image": kind}))
    return Rows(images, fallback, fallback, [list(filter(None, as_list(own))) for own in files], cells)


def embedded_rows(images: Dataset, cells: Cells) -> Rows:
    """Rows of an Arrow column of images: the same where original name and number of bytes are the same.

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
        return Rows(
            images, list(range(len(images))), [str(row) for row in range(len(images))], [[]] * len(images), cells
        )
    column = images.with_format("arrow")[:]["image"]
    paths = pyarrow.compute.struct_field(column, "path").to_pylist()
    sizes = pyarrow.compute.binary_length(pyarrow.compute.struct_field(column, "bytes")).to_pylist()
    keys = [(path, size) if path else row for row, (path, size) in enumerate(zip(paths, sizes, strict=True))]
    names = [os.path.basename(path) if path else str(row) for row, path in enumerate(paths)]
    files = [[path] if path and size is None else [] for path, size in zip(paths, sizes, strict=True)]
    return Rows(images, keys, names, files, cells)


def with_modalities(rows: Rows, columns: Mapping[str, Any], settings: DataSettings, roots: Sequence[Path]) -> Rows:
    """The rows with the columns of `data.modality_columns`: numbers, or paths of files relative to a root.

    Raises:
        DataError: a column that there is not, or files that are not there.
    """
    images = rows.images
    for name, column in settings.modality_columns.items():
        if column not in columns:
            raise DataError(
                f"{settings.path} has no column {column!r} but {some(columns, 20)}; set "
                f"`data.modality_columns.{name}` to one of them"
            )
        values = columns[column][:]
        if any(isinstance(value, str) for value in values):
            values = _full_paths(values, name, roots)
        images = concatenate_datasets([images, Dataset.from_dict({name: values})], axis=1)
    return replace(rows, images=images)


def _full_paths(paths: Sequence[str | None], name: str, roots: Sequence[Path]) -> list[str | None]:
    """Paths of features in full; what stands behind `#` is a key in the file."""
    folder = _folder_of([path.partition("#")[0] for path in paths if path], roots)
    files = [os.path.join(folder, path) if path else None for path in paths]
    missing = [file for file in files if file and not os.path.isfile(file.partition("#")[0])]
    if missing:
        raise DataError(f"{len(missing)} files of `{name}` are missing: {some(missing, 3)}; put them there")
    return files
