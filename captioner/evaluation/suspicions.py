"""What is suspicious about the captions of a split, in words, where scores alone would hide it.

Knows nothing about models or where lines are said.
"""

from collections import Counter
from typing import Any

COMMON = 0.9  # share of the captions that are one and the same, from which on it is said
LETTERS_SHOWN = 60  # of a caption
FEWEST_CAPTIONS = 10  # samples below which only all of them count


def remarks(records: list[dict[str, Any]]) -> list[str]:
    """A line per suspicion about records with `caption` and `captions` (references); none where all is well."""
    return [line for line in (_empty(records), _same(records)) if line is not None]


def _empty(records: list[dict[str, Any]]) -> str | None:
    count = sum(not record["caption"].strip() for record in records)
    if not count:
        return None
    return f"{count} of {len(records)} captions are empty: the end came first, or only words that are not said"


def _same(records: list[dict[str, Any]]) -> str | None:
    """One caption for (nearly) all samples, and how often the commonest reference comes."""
    total = len(records)
    caption, count = Counter(record["caption"] for record in records).most_common(1)[0]
    if total < 2 or count < (total if total < FEWEST_CAPTIONS else COMMON * total) or not caption.strip():
        return None
    references = Counter(reference for record in records for reference in set(record["captions"]))
    reference, beside = references.most_common(1)[0]
    if count < total and beside >= count:
        return None
    return (
        f"the same caption for {'all ' if count == total else f'{count} of '}{total} samples, {_short(caption)}; of "
        f"{len(references)} references that differ, the commonest, {_short(reference)}, belongs to {beside}"
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= LETTERS_SHOWN else f"{text[:LETTERS_SHOWN]}…")
