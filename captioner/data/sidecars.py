"""Photos with a text beside each: `photo.txt` for `photo.jpg`, as `captioner caption --sidecar` and taggers write them.

Knows nothing about tables.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from ..base import SUFFIXES, DataSettings, TextError, lines_of, read_text
from .annotations import root_of
from .faults import UNREADABLE, UNREADABLE_CAPTION, DataError
from .rows import Cells, Rows, file_rows
from .split_names import SAME_SPLIT, WHOLE, check_known, choose_split

TEXT_SUFFIXES = (".txt", ".caption")
METADATA_TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
OTHERS = frozenset((".parquet", ".arrow", ".tar", ".csv", ".tsv", ".jsonl", ".json", ".zip"))  # data of another kind


class Photo(NamedTuple):
    """A photo and the text beside it, if there is one."""

    path: str
    text: str | None


def read_sidecars(settings: DataSettings, split: str) -> Rows:
    """`path`: a folder of photos, at any depth, each with its captions in a text beside it, a line each.

    Folders in it that are named like splits are these; without any, the photos serve every split.
    """
    root = root_of(settings)
    if root.is_file():
        raise DataError(f"`data.path` {root} is a file; give the folder of photos and their texts")
    folder = _folder(root, split)
    photos = list(_photos(folder))
    captions, faults = [], {}
    for row, photo in enumerate(photos):
        captions.append(None)
        try:
            photo.path.encode()
            captions[row] = _captions_in(photo.text)
        except UnicodeEncodeError:
            faults[row] = (UNREADABLE, "its name is no UTF-8; rename it")
        except (TextError, OSError) as error:
            faults[row] = (UNREADABLE_CAPTION, str(error))
    names = [os.path.relpath(_printed(photo.path), _printed(os.fspath(folder))) for photo in photos]
    rows = file_rows([folder], names, Cells(captions), folder, split)
    rows.faults = faults
    return rows


def _printed(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode()


def _folder(root: Path, split: str) -> Path:
    """The folder of a split: that of its name, or the whole where none is named like a split."""
    splits = {path.name for path in root.iterdir() if path.is_dir()} & {*WHOLE, *SAME_SPLIT}
    if not splits or split == "all":
        check_known(split, root)
        return root
    return root / choose_split(split, sorted(splits), root)


def _files(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A folder and those in it with the names of their files, in order; what is hidden is left out."""
    for place, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield place, sorted(name for name in names if not name.startswith("."))


def _photos(folder: Path) -> Iterator[Photo]:
    for place, names in _files(folder):
        forms = {normalize("NFC", name): name for name in names}
        for name in names:
            if os.path.splitext(name)[1].lower() in SUFFIXES:
                text = _text_of(normalize("NFC", name), forms)
                yield Photo(os.path.join(place, name), text and os.path.join(place, text))


def _text_of(name: str, names: Mapping[str, str]) -> str | None:
    """The text of a photo among the names of its folder."""
    candidates = [stem + suffix for stem in (os.path.splitext(name)[0], name) for suffix in TEXT_SUFFIXES]
    return next((names[candidate] for candidate in candidates if candidate in names), None)


def _captions_in(file: str | None) -> list[str]:
    """The lines of a text that are not blank."""
    return [] if file is None else [line for line in lines_of(read_text(file)) if line.strip()]


def holds_sidecars(folder: Path) -> bool:
    """Whether a folder has photos with texts beside them and no data of another kind."""
    names = [name for _, own in _files(folder) for name in own]
    if any(name in METADATA_TABLES or os.path.splitext(name)[1].lower() in OTHERS for name in names):
        return False
    return any(photo.text is not None for photo in _photos(folder))
