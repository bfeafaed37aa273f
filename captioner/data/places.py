"""Where files lie whose names stand in a table: in a root or below it, in their split's folder, never in a hidden one.

Opens nothing; knows nothing about tables.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from ..base import existing, some
from .faults import DataError
from .split_names import names_of

LOOKED_FOR = 20  # names, when their folder is found
DEPTH = 2  # of folders below a root


def folders(root: Path, depth: int) -> Iterator[Path]:
    """A folder and its subfolders down to a depth, hidden ones left out, or the folder of a file."""
    folder = root if root.is_dir() else root.parent
    yield folder
    if depth:
        with os.scandir(folder) as entries:
            below = sorted(entry.path for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        for path in below:
            yield from folders(Path(path), depth - 1)


def folder_of(names: Sequence[str], roots: Sequence[Path], split: str) -> Path:
    """The folder that the first of these names are relative to: a root, or up to two levels below one.

    Raises:
        DataError: several folders have them, and none is named like the split.
    """
    wanted = names[:LOOKED_FOR]
    tops = [next(folders(root, 0)) for root in roots]
    found = next((top for top in tops if _held(wanted, top)), None)
    if found is not None or not wanted:
        return found or tops[0]
    below = list(dict.fromkeys(folder for top in tops for folder in folders(top, DEPTH)))
    held = {folder: own for folder in below if (own := _held(wanted, folder))}
    return _only(held, tops, split) if held else tops[0]


def _held(names: Sequence[str], folder: Path) -> frozenset[str]:
    """Which of the names are files in a folder."""
    paths = {name: existing(os.path.join(folder, name)) for name in names}
    return frozenset(name for name, path in paths.items() if path is not None and os.path.isfile(path))


def _only(held: dict[Path, frozenset[str]], tops: Collection[Path], split: str) -> Path:
    """The one folder that is meant: named like the split, or with every name that any of them has."""
    own = {folder: names for folder, names in held.items() if set(names_of(split)) & set(_below(folder, tops))}
    held = own or held
    most = max(map(len, held.values()))
    best = [folder for folder, names in held.items() if len(names) == most]
    if len(best) > 1:
        name = min(held[best[0]])
        remedy = f"write the folder into the table ({best[0].name}/{name}), or set `data.path` to the right one"
        raise DataError(f"{name} is in {some(best, 3)}; {remedy}")
    return best[0]


def _below(folder: Path, tops: Collection[Path]) -> tuple[str, ...]:
    """The names of the folders that lead from a root to a folder."""
    top = max((top for top in tops if folder.is_relative_to(top)), key=lambda top: len(top.parts))
    return folder.relative_to(top).parts
