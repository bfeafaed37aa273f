"""Captions of Flickr8k and Flickr30k in text files: lines of image and caption, and a list of names for each split.

Knows nothing about tables or columns.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from ..base import DataSettings, TextError, lines_of, read_text
from .annotations import files_of, named_file, root_of
from .faults import DataError
from .rows import Cells, Rows, file_rows
from .split_names import choose_split

USUAL_FILES = ("Flickr8k.token.txt", "captions.txt", "results.csv", "results_20130124.token")
SUFFIXES_OF_CAPTIONS = (".txt", ".csv", ".token")
RESULT = re.compile(r"(.+?)\|\s*\d+(?:\s*\||\s)\s*(.*)")  # one line of Flickr30k's lacks its second separator

Caption = tuple[str, str]  # the name of an image, and what is said about it


def read_flickr8k(settings: DataSettings, split: str) -> Rows:
    """`path`: the folder of `Flickr8k.token.txt`, Kaggle's `captions.txt` or Flickr30k's `results.csv`, and images."""
    texts = files_of(root_of(settings), set(SUFFIXES_OF_CAPTIONS))
    usual = [file for name in USUAL_FILES for file in texts if file.name == name]
    chosen = usual and settings.annotations is None
    file = usual[0] if chosen else named_file(settings, split, SUFFIXES_OF_CAPTIONS, splits=True)
    captions = read_captions(file)
    lists = {found[1]: path for path in texts if (found := re.search(r"\.(\w+)Images\.txt$", path.name))}
    if split == "all" or (split == "train" and not lists):
        names = list(captions)
    elif lists:
        names = [line for line in _lines(lists[choose_split(split, lists, settings.path)]) if line]
    else:
        remedy = "set `data.train_split` to train[:90%] and `data.validation_split` to train[90%:], or `data.hold_out`"
        what = f"{file} ({_form_of(_lines(file)[0])}) has no split lists beside it"
        raise DataError(f"{what}, so it has no split {split!r} but train; {remedy}")
    places = {name: place for place, name in enumerate(captions)}
    rows = file_rows([root_of(settings)], names, Cells([captions.get(name) for name in names]), file, split)
    rows.places = [places.get(name, -1) for name in names]
    return rows


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in lines_of(read_text(file))]
    except TextError as error:
        raise DataError(str(error)) from error


def _token_lines(lines: list[str]) -> Iterator[Caption]:
    for line in lines:
        name, separator, caption = line.partition("\t")
        if separator:
            yield name.rpartition("#")[0], caption


def _kaggle_lines(lines: list[str]) -> Iterator[Caption]:
    for line in lines[1:]:
        name, separator, caption = line.partition(",")
        quoted = len(caption) > 1 and caption[0] == caption[-1] == '"'
        if separator:
            yield name, caption[1:-1].replace('""', '"') if quoted else caption


def _result_lines(lines: list[str]) -> Iterator[Caption]:
    for line in lines[1:]:
        found = RESULT.fullmatch(line)
        if found:
            yield found[1].strip(), found[2]


FORMS: dict[str, Callable[[list[str]], Iterator[Caption]]] = {
    "name#0<TAB>caption": _token_lines,
    "image,caption": _kaggle_lines,
    "image_name|comment_number|comment": _result_lines,
}  # how lines look, or the header above them → what reads them


def _form_of(header: str) -> str:
    plain = header.replace(" ", "").lower()
    return plain if plain in FORMS else "name#0<TAB>caption"


def read_captions(file: Path) -> dict[str, list[str]]:
    """Image name → captions, from lines of one of `FORMS`.

    Raises:
        DataError: no such lines, or some that are none.
    """
    lines, captions = [line for line in _lines(file) if line], defaultdict(list)
    form = _form_of(lines[0]) if lines else ""
    for name, caption in FORMS[form](lines) if form else ():
        captions[name].append(caption)
    if not captions:
        raise DataError(
            f"{file} holds no captions; its lines must be {', or '.join(FORMS)}, the latter under that header"
        )
    read = sum(map(len, captions.values()))
    most = len(lines) - (form != "name#0<TAB>caption")
    if read < most:
        raise DataError(f"{file}: {most - read} of {most} lines are not of the form {form}; repair them")
    return captions
