"""From what a person names to images: files, folders, globs, lists, tables and datasets repositories, in input order.

Opens no image and imports no torch. Names of files are kept as the system gives them, whatever their bytes.
"""

import glob
import os
import re
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from ..base import SUFFIXES, existing, one_line, some
from .lists import InputError, locate, read_list, read_texts

LIST_SUFFIXES = frozenset((".txt", ".lst", ".list"))
TABLE_SUFFIXES = frozenset((".csv", ".tsv", ".jsonl", ".parquet"))
SAVED_DATASET = ("dataset_dict.json", "state.json")
# Suffixes of pictures that are not read.
RAW = (".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw", ".raw")
OTHER_PICTURES = frozenset(
    (*RAW, ".psd", ".xcf", ".svg", ".eps", ".pdf", ".jxl", ".exr", ".hdr", ".mp4", ".mov", ".avi")
)


@dataclass(frozen=True)
class Item:
    """One image to caption.

    Args:
        name: what records call it: its path as it was given or found.
        image: whatever `open_image` reads; None: only its context is read.
        file: its path, where it is a file.
        columns: the other cells of its row, where it comes from a table.
        index: its place in the input.
        folder: what paths in `columns` are relative to.
    """

    name: str
    image: Any
    file: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    index: int = 0
    folder: str = ""


class Part(Protocol):
    """A run of images of one kind."""

    names: Sequence[str]
    columns: Collection[str]

    def item(self, place: int, index: int) -> Item:
        """The image at `place` of the part and `index` of the whole input."""


class Files:
    """Image files by path, perhaps written down in a list: then relative to the list, else to where one stands."""

    columns: Collection[str] = ()

    def __init__(self, names: Sequence[str], folder: str = "", left_out: Sequence[str] = ()):
        self.names, self.folder, self.left_out = names, folder, left_out

    def thin(self, seen: set[str]) -> None:
        """Leave out files that came before, however their paths were spelled; links are files of their own."""
        stand = os.getcwd()
        places = [
            os.path.normpath(os.path.join(stand, locate(n, self.folder) if self.folder else n)) for n in self.names
        ]
        fresh = [name for place, name in zip(places, self.names, strict=True) if not (place in seen or seen.add(place))]
        self.names = fresh

    def item(self, place: int, index: int) -> Item:
        """The file at a place."""
        file = locate(self.names[place], self.folder)
        return Item(self.names[place], file, file, index=index)


class Table:
    """Rows of a table with a column of paths, of encoded images, or of lists of either."""

    def __init__(self, table: Any, image_column: str | None, where: str, folder: str):
        from ..data import Cells, embedded_rows, holds_paths

        self.folder = folder
        column = _image_column(table.column_names, image_column, where)
        self.rows = table.remove_columns(column)
        self.columns = self.rows.column_names
        self.embedded = None
        if holds_paths(table.features[column]):
            self.paths = [own if isinstance(own, list) else [own] for own in table[column][:]]
            joined = [", ".join(filter(None, own)) for own in self.paths]
            self.names = [name or f"{where}#{row}" for row, name in enumerate(joined)]
        else:
            images = table.select_columns(column)
            images = images if column == "image" else images.rename_column(column, "image")
            found = embedded_rows(images, Cells([]))
            self.embedded = found.images
            self.names = [f"{where}#{row}" if name == str(row) else name for row, name in enumerate(found.names)]

    def item(self, place: int, index: int) -> Item:
        """The row at a place."""
        columns = self.rows[place] if self.columns else {}
        if self.embedded is not None:
            return Item(self.names[place], self.embedded[place]["image"], None, columns, index, self.folder)
        files = [locate(path or self.names[place], self.folder) for path in self.paths[place]]
        if len(files) == 1:
            return Item(self.names[place], files[0], files[0], columns, index, self.folder)
        return Item(self.names[place], files or None, None, columns, index, self.folder)


class Texts:
    """Contexts without images."""

    columns: Collection[str] = ("text",)

    def __init__(self, texts: Sequence[str]):
        self.names = texts

    def item(self, place: int, index: int) -> Item:
        """The text at a place, by which it is also called."""
        return Item(self.names[place], None, columns={"text": self.names[place]}, index=index)


class Inputs:
    """Every image of the input in order: names at once, the rest on demand.

    Args:
        parts: runs of images.
        limit: images at most, or None.
    """

    def __init__(self, parts: Sequence[Part], limit: int | None = None):
        self.parts = parts
        self.names = [name for part in parts for name in part.names][:limit]
        self.starts = [0, *accumulate(len(part.names) for part in parts)]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Item:
        part = bisect_right(self.starts, index) - 1
        return self.parts[part].item(index - self.starts[part], index)

    def __iter__(self) -> Iterator[Item]:
        return (self[index] for index in range(len(self)))

    @property
    def left_out(self) -> list[str]:
        """Pictures in the folders of formats that are not read."""
        return [file for part in self.parts for file in getattr(part, "left_out", ())]

    @property
    def columns(self) -> set[str]:
        """The columns that every part has."""
        return set.intersection(*(set(part.columns) for part in self.parts))


def find_texts(path: str, limit: int | None = None) -> Inputs:
    """The lines of a text file, or of standard input ("-"), without blank ones.

    Raises:
        InputError: a file that cannot be read, or nothing in it.
    """
    return Inputs([Texts(read_texts(path))], limit)


def find_inputs(
    paths: Sequence[str],
    recursive: bool = False,
    image_column: str | None = None,
    split: str | None = None,
    limit: int | None = None,
) -> Inputs:
    """Find the images that paths name.

    Args:
        paths: image files; folders, whose images come in name order, hidden ones left out; globs; lists of paths
            (`LIST_SUFFIXES`, a path per line, or NUL between them); tables (`TABLE_SUFFIXES`); datasets
            repositories, local or on the Hub.
        recursive: look into the folders of folders too.
        image_column: of tables and repositories; None: a usual name.
        split: of repositories; None: "train".
        limit: images at most.

    Raises:
        InputError: a path that is not there, a table without images, or nothing to caption.
    """
    if not paths:
        raise InputError("nothing to caption: give images, folders, globs, lists, tables or datasets repositories")
    parts: list[Part] = []
    seen: set[str] = set()
    for path in paths:
        part = _part(path, recursive, image_column, split)
        if isinstance(part, Files):
            part.thin(seen)
        parts += [part] if part.names else []
    if not parts:
        raise InputError(
            f"no images in {', '.join(paths)}: looked for {', '.join(sorted(SUFFIXES))}; `--recursive` looks deeper"
        )
    return Inputs(parts, limit)


def _part(path: str, recursive: bool, image_column: str | None, split: str | None) -> Part:
    path = path if os.path.lexists(path) else os.path.expanduser(path)
    suffix = os.path.splitext(path)[1].lower()
    if os.path.isdir(path):
        return _folder(path, recursive, image_column, split)
    if os.path.lexists(path):
        if suffix in LIST_SUFFIXES:
            return Files(read_list(path), os.path.dirname(path))
        if suffix in TABLE_SUFFIXES:
            return Table(_read_table(path), image_column, path, os.path.dirname(path))
        return Files([path])
    if glob.has_magic(path):
        found = sorted(file for file in glob.glob(path, recursive=True) if not os.path.isdir(file))
        return Files(found if suffix else [file for file in found if _is_image(file)])
    if re.fullmatch(r"[\w.-]+/[\w.-]+", path) and suffix not in SUFFIXES:
        return Table(_read_repository(path, split), image_column, path, "")
    if (found := existing(path)) is not None:
        return _part(found, recursive, image_column, split)
    raise InputError(f"there is no file or folder {path!r}")


def _folder(path: str, recursive: bool, image_column: str | None, split: str | None) -> Part:
    """A saved dataset, a folder of images, or failing that a folder with Parquet files."""
    left_out: list[str] = []
    if not _is_saved_dataset(path):
        try:
            names = list(_walk(path, recursive, set(), left_out))
        except OSError as error:
            raise InputError(f"cannot look into the folder {path!r}: {error.strerror}") from error
        tables = (table for pattern in ("*.parquet", "*/*.parquet") for table in Path(path).glob(pattern))
        if names or next(tables, None) is None:
            return Files(names, left_out=left_out)
    return Table(_read_repository(path, split), image_column, path, path)


def _is_saved_dataset(path: str) -> bool:
    if not any(os.path.isfile(os.path.join(path, name)) for name in SAVED_DATASET):
        return False
    from ..data import is_saved_dataset

    return is_saved_dataset(path)


def _walk(folder: str, recursive: bool, visited: set[tuple[int, int]], left_out: list[str]) -> Iterator[str]:
    """Images of a folder, and folders that are named like images, in name order; then its folders, each once.

    A folder below the first that cannot be looked into comes as if it was an image, so that reading it reports it.

    Args:
        left_out: takes pictures of formats that are not read.
    """
    place = os.stat(folder)
    if (place.st_dev, place.st_ino) in visited:
        return
    visited.add((place.st_dev, place.st_ino))
    with os.scandir(folder) as listing:
        entries = sorted((e for e in listing if not e.name.startswith(".")), key=lambda entry: entry.name)
    yield from (entry.path for entry in entries if _is_image(entry.name))
    left_out += (entry.path for entry in entries if os.path.splitext(entry.name)[1].lower() in OTHER_PICTURES)
    for entry in entries if recursive else ():
        if _is_folder(entry):
            try:
                yield from _walk(entry.path, recursive, visited, left_out)
            except OSError:
                yield entry.path


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _read_table(path: str) -> Any:
    from datasets.exceptions import DatasetsError

    from ..data import TABLE_READERS

    try:
        return TABLE_READERS[os.path.splitext(path)[1].lower()](Path(path))
    except (ValueError, OSError, DatasetsError) as error:
        raise InputError(f"cannot read the table {path!r}: {one_line(error)}") from error


def _read_repository(path: str, split: str | None) -> Any:
    from datasets.exceptions import DatasetsError

    from ..data import DataError, load_repository

    try:
        return load_repository(path, split or "train")
    except DataError as error:
        raise InputError(f"{str(error).partition(';')[0]}; choose one with `--split`") from error
    except (ValueError, OSError, DatasetsError) as error:
        raise InputError(
            f"there is no file or folder {path!r}, or it holds no images, and it is no datasets repository that can "
            f"be loaded: {one_line(error)}"
        ) from error


def _image_column(names: Sequence[str], wanted: str | None, where: str) -> str:
    from ..data import USUAL_COLUMNS

    choices = USUAL_COLUMNS["image_column"] if wanted is None else (wanted,)
    bare = {name.strip(): name for name in names}  # a header may have spaces around its names
    found = next((name if name in names else bare[name] for name in choices if name in names or name in bare), None)
    if found is None:
        missing = f"column {wanted!r}" if wanted else "column of images"
        raise InputError(f"{where} has no {missing} but {some(names, 20)}; name one with `--image-column`")
    return found
