"""Captions of Flickr8k in text files: lines of image and caption, and a list of names for each split.

Knows nothing about tables or columns.
"""

import re
from collections import defaultdict
from pathlib import Path

from ..base import DataSettings
from .annotations import choose_split, files_of, named_file, root_of
from .rows import Cells, DataError, Rows, file_rows

USUAL_FILES = ("Flickr8k.token.txt", "captions.txt")


def read_flickr8k(settings: DataSettings, split: str) -> Rows:
    """`path`: the folder of `Flickr8k.token.txt` or Kaggle's `captions.txt`, split lists and images."""
    texts = files_of(root_of(settings), {".txt"})
    usual = [file for name in USUAL_FILES for file in texts if file.name == name]
    file = usual[0] if usual and settings.annotations is None else named_file(settings, split, {".txt"})
    captions = _captions(file)
    lists = {found[1]: path for path in texts if (found := re.search(r"\.(\w+)Images\.txt$", path.name))}
    if split == "all" or (split == "train" and not lists):
        names = list(captions)
    elif lists:
        names = [line for line in _lines(lists[choose_split(split, lists, settings.path)]) if line]
    else:
        remedy = "set `data.train_split` to train[:90%] and `data.validation_split` to train[90%:]"
        raise DataError(f"{file} has no split lists beside it, so it has no split {split!r} but train; {remedy}")
    return file_rows([root_of(settings)], names, Cells([captions.get(name) for name in names]))


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text(encoding="utf-8-sig").split("\n")]


def _captions(file: Path) -> dict[str, list[str]]:
    """Image name → captions, from lines `name#k<TAB>caption` or, below a header, `name,caption`."""
    lines, captions = _lines(file), defaultdict(list)
    header = lines[0].replace(" ", "").lower() == "image,caption"
    for line in lines[1:] if header else lines:
        name, separator, caption = line.partition("," if header else "\t")
        if separator:
            quoted = header and len(caption) > 1 and caption[0] == caption[-1] == '"'
            caption = caption[1:-1].replace('""', '"') if quoted else caption
            captions[name if header else name.rpartition("#")[0]].append(caption)
    if not captions:
        kinds = "name#0<TAB>caption, or image,caption under that header"
        raise DataError(f"{file} holds no captions; its lines must be {kinds}")
    return captions
