"""Score two files by id: captions that any program wrote, and their references.

Files are JSONL, COCO's results and annotations in JSON, or tables. Knows nothing about captioners.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..base import TextError, json_lines, parse_json, read_text, some
from ..metrics import score

IDS = ("id", "image_id", "image", "image_name", "file_name")
CAPTIONS = ("captions", "caption", "comment")
TABLES_OF_CAPTIONS = (".csv", ".tsv", ".parquet")

Entry = tuple[str, Any]  # where it stands, and what should be a dict


class ScoringError(ValueError):
    """Files that cannot be scored against each other; the message says which lines and why."""


def score_files(predictions: Path, references: Path) -> dict[str, float]:
    """BLEU-1..4, ROUGE-L and CIDEr-D of `{"id", "caption"}` lines against `{"id", "captions"}` lines.

    An id may also be called by another of `IDS`, and references by another of `CAPTIONS`, of which an id may have
    several entries. Either file may be COCO's JSON or a table.

    Raises:
        ScoringError: a missing file, an entry that is not such an object, an id twice, or ids that differ.
    """
    captions, own = _predicted(predictions), _referred(references)
    missing, foreign = own.keys() - captions.keys(), captions.keys() - own.keys()
    if missing or foreign:
        unscored, unknown = some(sorted(missing), 3), some(sorted(foreign), 3)
        raise ScoringError(
            f"the ids must be the same in both files, but {len(missing)} of {references} have no caption "
            f"({unscored}) and {len(foreign)} of {predictions} have no references ({unknown})"
        )
    order = list(own)
    return score([captions[name] for name in order], [own[name] for name in order])


def _predicted(path: Path) -> dict[str, str]:
    """The caption of each id."""
    table: dict[str, str] = {}
    for where, entry in _entries(path):
        name, (caption,) = _entry(where, entry, ("caption",), str)
        if name in table:
            raise ScoringError(f"{where}: the id {name!r} is there twice; keep one")
        table[name] = caption
    return table


def _referred(path: Path) -> dict[str, list[str]]:
    """The references of each id: a list in one entry, or a text in each of several."""
    table: dict[str, list[str]] = {}
    single: set[str] = set()
    for where, entry in _entries(path):
        name, captions = _entry(where, entry, CAPTIONS, list)
        if name in table and not (name in single and _is_single(entry)):
            raise ScoringError(f"{where}: the id {name!r} is there twice; keep one")
        table.setdefault(name, []).extend(captions)
        single |= {name} if _is_single(entry) else set()
    return table


def _is_single(entry: dict[str, Any]) -> bool:
    return isinstance(entry[next(key for key in CAPTIONS if key in entry)], str)


def _entries(path: Path) -> Iterator[Entry]:
    """Everything in a file that should be an object, with where it stands.

    Raises:
        ScoringError: it cannot be read, or is empty.
    """
    try:
        read = _table if path.suffix.lower() in TABLES_OF_CAPTIONS else _json
        entries = list(read(path))
    except (OSError, TextError) as error:
        told = str(error) if isinstance(error, TextError) else f"cannot read {path}: {error.strerror or error}"
        raise ScoringError(told) from error
    if not entries:
        raise ScoringError(f"{path} has no lines; write one JSON object per caption")
    yield from entries


def _json(path: Path) -> Iterator[Entry]:
    """The lines of JSONL, or the entries of one JSON list or of COCO's annotations."""
    try:
        tree = parse_json(read_text(path), os.fspath(path))
    except TextError:
        if path.suffix.lower() == ".json":
            raise
        tree = None
    if isinstance(tree, dict) and isinstance(tree.get("annotations"), list):
        tree = [{**entry, "id": None} if isinstance(entry, dict) else entry for entry in tree["annotations"]]
    if not isinstance(tree, list):
        yield from json_lines(path)
        return
    for number, entry in enumerate(tree):
        yield f"{path}, entry {number}", entry


def _table(path: Path) -> Iterator[Entry]:
    """The rows of a table; a list that is written in a cell is one."""
    from ..data import TABLE_READERS, captions_in

    for number, row in enumerate(TABLE_READERS[path.suffix.lower()](path), start=1):
        lists = {key: captions_in(row[key])[0] for key in ("captions",) if key in row}
        yield f"{path}, row {number}", row | lists


def _entry(where: str, entry: Any, keys: tuple[str, ...], kind: Callable) -> tuple[str, list[str]]:
    """The id of an entry, and its captions.

    Raises:
        ScoringError: it has none, or one of them is no text.
    """
    found = entry if isinstance(entry, dict) else {}
    name = next((found[key] for key in IDS if found.get(key) is not None), None)
    value = next((found[key] for key in keys if key in found), None)
    if name is None or not isinstance(value, str | kind):
        has = f", but has {some(found)}" if found else ""
        raise ScoringError(f"{where} must be an object with `id` and `{keys[0]}` (a {kind.__name__}){has}")
    captions = [value] if isinstance(value, str) else value
    if not captions:
        raise ScoringError(f"{where}: the id {str(name)!r} has no captions; give it one, or leave it out of both files")
    wrong = next((caption for caption in captions if not isinstance(caption, str)), "")
    if wrong is None or not isinstance(wrong, str):
        shown = "null" if wrong is None else repr(wrong)[:60]
        raise ScoringError(f"{where}: a caption is {shown}; write a text, or leave it out")
    return str(name), captions
