"""Where the files of a source are: its folder, the annotation file of a split, and what that must be.

Opens JSON and nothing else; knows nothing about columns, rows or images.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..base import DataSettings, TextError, parse_json, read_text, some
from .faults import DataError
from .places import folders
from .split_names import check_known, choose_split, is_of_another, names_of


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


def named_file(
    settings: DataSettings, split: str, suffixes: Collection[str], key: str = "annotations", splits: bool = False
) -> Path:
    """The file with the texts of a split: the one that is set, or named like the split, or the only one.

    A file for all splits serves as any that has a usual name, unless it is named like another.

    Args:
        splits: whether a file for all splits has splits itself, so that the reader knows their names.

    Raises:
        DataError: it is not there, or not clear, or the name of the split is not.
    """
    root, given = root_of(settings), getattr(settings, key)
    folder = next(folders(root, 0))
    if isinstance(given, dict):
        given, serves_all = given[choose_split(split, given, f"`data.{key}`")], False
    else:
        serves_all = True
    if given is not None:
        found = [file for file in (folder / given, Path(given).expanduser()) if file.is_file()][:1]
    else:
        candidates = [root] if root.is_file() else files_of(folder, suffixes)
        found = _named_like(split, candidates)
        serves_all = not found
        found = found or (candidates if _serves(candidates, root, split) else [])
    if len(found) != 1:
        kinds = " or ".join(suffixes)
        present = some(file.relative_to(folder).as_posix() for file in files_of(folder, suffixes))
        what = f"{given} does not exist" if given else f"for split {split!r} is not clear"
        raise DataError(f"the annotation file {what}; set `data.{key}`, {kinds} files in {folder}: {present}")
    if serves_all and not splits:
        check_known(split, found[0], found[0].stem)
    return found[0]


def _named_like(split: str, files: Sequence[Path]) -> list[Path]:
    """The files named like a split, by the very name if there are such, in the folder itself if there are such."""
    named = [file for file in files if file.stem in names_of(split)]
    named = [file for file in named if file.stem == split] or named
    least = min((len(file.parts) for file in named), default=0)
    return [file for file in named if len(file.parts) == least]


def _serves(candidates: list[Path], root: Path, split: str) -> bool:
    """Whether the only file stands for a split that it is not named like."""
    return len(candidates) == 1 and (candidates[0] == root or not is_of_another(candidates[0].stem, split))


def files_of(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files of some kinds in a folder and its direct subfolders."""
    return [f for place in folders(folder, 1) for f in sorted(place.iterdir()) if f.suffix.lower() in suffixes]


def read_json(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: it is not JSON.
    """
    try:
        return parse_json(read_text(file), str(file))
    except TextError as error:
        raise DataError(str(error)) from error


@contextmanager
def expect(what: str, file: Path) -> Iterator[None]:
    """Turn a missing key into an error that says what the file should be."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is not {what} ({type(error).__name__}: {error}); set `data.annotations`") from error
