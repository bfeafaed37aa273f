"""Score two JSONL files by id: captions that any program wrote, and their references."""

import json
from pathlib import Path
from typing import Any

from ..base import some
from ..metrics import score


class ScoringError(ValueError):
    """Files that cannot be scored against each other; the message says which lines and why."""


def score_files(predictions: Path, references: Path) -> dict[str, float]:
    """BLEU-1..4, ROUGE-L and CIDEr-D of `{"id", "caption"}` lines against `{"id", "captions"}` lines.

    Raises:
        ScoringError: a missing file, a line that is not such an object, an id twice, or ids that differ.
    """
    captions, own = _read(predictions, "caption", str), _read(references, "captions", list)
    missing, foreign = own.keys() - captions.keys(), captions.keys() - own.keys()
    if missing or foreign:
        unscored, unknown = some(sorted(missing), 3), some(sorted(foreign), 3)
        raise ScoringError(
            f"the ids must be the same in both files, but {len(missing)} of {references} have no caption "
            f"({unscored}) and {len(foreign)} of {predictions} have no references ({unknown})"
        )
    order = list(own)
    return score([captions[name] for name in order], [own[name] for name in order])


def _read(path: Path, key: str, kind: type) -> dict[str, Any]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ScoringError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    table: dict[str, Any] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            name, value = _entry(path, number, line, key, kind)
            if name in table:
                raise ScoringError(f"{path}, line {number}: the id {name!r} is there twice; keep one")
            table[name] = value
    if not table:
        raise ScoringError(f"{path} has no lines; write one JSON object per caption")
    return table


def _entry(path: Path, number: int, line: str, key: str, kind: type) -> tuple[str, Any]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ScoringError(f"{path}, line {number} is not JSON: {error}") from error
    if not isinstance(entry, dict) or "id" not in entry or not isinstance(entry.get(key), kind):
        raise ScoringError(f"{path}, line {number} must be an object with `id` and `{key}` (a {kind.__name__})")
    return str(entry["id"]), entry[key]
