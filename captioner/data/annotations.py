"""Where the files of a source are: its folder, the annotation file of a split, and what that must be.

Opens JSON and nothing else; knows nothing about columns, rows or images.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..base import DataSettings, one_line, some
from .rows import DataError, folders

SAME_SPLIT = ("validation", "val", "valid", "dev")


def beside(path: Path) -> str:
    """What lies where a path should be, for an error."""
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    return f"in {folder} there is {some(sorted(entry.name for entry in folder.iterdir()))}"


def root_of(settings: DataSettings) -> Path:
    """The file or folder at `path`.

    Raises:
        DataError: it is not set or not there.
    """
    if settings.path is None:
        raise DataError(f"`data.path` is not set; give the folder or file of the source {settings.source!r}")
    path = Path(settings.path).expanduser()
    if not path.exists():
        raise DataError(f"`data.path` {settings.path} does not exist; {beside(path)}")
    return path


def choose_split(split: str, names: Collection[str], where: Any) -> str:
    """The name that stands for a split among those that there are.

    Raises:
        DataError: none does.
    """
    same = [name for name in names if split in SAME_SPLIT and name in SAME_SPLIT]
    if split in names:
        return split
    if len(same) != 1:
        remedy = "set `data.train_split` or `data.validation_split`"
        raise DataError(f"{where} has no split {split!r} but {some(names)}; {remedy}")
    return same[0]


def named_file(settings: DataSettings, split: str, suffixes: Collection[str], key: str = "annotations") -> Path:
    """The file with the texts of a split: the one that is set, or named like the split, or the only one.

    Raises:
        DataError: it is not there, or not clear.
    """
    root, given = root_of(settings), getattr(settings, key)
    if isinstance(given, dict):
        given = given[choose_split(split, given, f"`data.{key}`")]
    folder = next(folders(root, 0))
    if given is not None:
        found = [file for file in (folder / given, Path(given).expanduser()) if file.is_file()]
    else:
        candidates = [root] if root.is_file() else files_of(folder, suffixes)
        stems = SAME_SPLIT if split in SAME_SPLIT else (split,)
        found = [file for file in candidates if file.stem in stems] or (candidates if len(candidates) == 1 else [])
    if not found:
        kinds = " or ".join(suffixes)
        present = some(file.relative_to(folder).as_posix() for file in files_of(folder, suffixes))
        what = f"{given} does not exist" if given else f"for split {split!r} is not clear"
        raise DataError(f"the annotation file {what}; set `data.{key}`, {kinds} files in {folder}: {present}")
    return found[0]


def files_of(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files of some kinds in a folder and its direct subfolders."""
    return [f for place in folders(folder, 1) for f in sorted(place.iterdir()) if f.suffix.lower() in suffixes]


def read_json(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: it is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{file} is not valid JSON: {one_line(error)}") from error


@contextmanager
def expect(what: str, file: Path) -> Iterator[None]:
    """Turn a missing key into an error that says what the file should be."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is not {what} ({type(error).__name__}: {error}); set `data.annotations`") from error
