"""Rows of a source to the samples of a split: captions of one image together, without what cannot be used.

Knows nothing about files of annotations or tensors; no image is opened.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from typing import Any

from datasets import Dataset, Features, List, ReadInstruction, Value

from ..base import some
from .faults import DUPLICATE, EMPTY, MISSING, Bad
from .rows import DataError, Rows

logger = logging.getLogger(__name__)

TEXTS = Features({"captions": List(Value("string")), "context": Value("string"), "id": Value("string")})
REMEDIES = {
    EMPTY: ("samples without a caption", "give each at least one, or remove it"),
    MISSING: ("image files missing", "put them there, set `data.path`, or remove their rows"),
}


class Samples:
    """One split: map-style and picklable, its images still encoded.

    Args:
        images: the column `image`, and one for each further modality.
        texts: the columns `captions`, `context` and `id`; iterate it to read texts without images.
        bad: what is wrong with the split, and which samples are left out of it for that.
    """

    def __init__(self, images: Dataset, texts: Dataset, bad: Iterable[Bad] = ()):
        self.images, self.texts, self.bad = images, texts, list(bad)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.images[index], **self.texts[index]}


def samples_of(
    rows: Rows, split: str, where: str, limit: int | None = None, max_bad_share: float = 0.0, whole: bool = False
) -> Samples:
    """One sample per image and context, its captions in the order of the rows.

    Args:
        split: a name or a slice; samples that cannot be used count in it, so that it stays the same without a file.
        where: names the data in errors.
        limit: samples at most.
        max_bad_share: the share of samples that may be left out.
        whole: the rows are the slice already.

    Raises:
        DataError: no samples, or too many that cannot be used.
    """
    groups, ids, contexts = _groups(rows)
    if not groups:
        raise DataError(f"{where} is empty; give it at least one image with a caption")
    names = _unique([ids[group[0]] or rows.names[group[0]] for group in groups])
    name = split.partition("[")[0]
    chosen = list(chain.from_iterable(ranges(name if whole else split, name, len(groups))))[:limit]
    if not chosen:
        raise DataError(f"{where} is empty: the slice takes none of {len(groups)} samples; widen it")
    texts: dict[str, list] = {"captions": [], "context": [], "id": []}
    bad, kept = _duplicates(rows, groups, ids, chosen), []
    missing = set(_missing(dict.fromkeys(file for place in chosen for file in rows.files[groups[place][0]])))
    for place in chosen:
        captions, faults = _captions(rows, groups[place], names[place], missing)
        bad += faults
        if not any(fault.left_out for fault in faults):
            first = groups[place][0]
            kept.append(first)
            for column, value in zip(texts, (captions, contexts[first], names[place]), strict=True):
                texts[column].append(value)
    _check_share(bad, len(chosen), len(kept), max_bad_share, where)
    images = rows.images if kept == list(range(len(rows.images))) else rows.images.select(kept)
    return Samples(images, Dataset.from_dict(texts, features=TEXTS), bad)


def _groups(rows: Rows) -> tuple[list[list[int]], list[str | None], list[str | None]]:
    """Rows that are one sample; the id and the context of every row. One id on several images is several samples."""
    nothing = [None] * len(rows.keys)
    contexts = [context_in(value) for value in rows.cells.contexts or nothing]
    ids = [None if value in (None, "") else str(value) for value in rows.cells.ids or nothing]
    groups = defaultdict(list)
    for row, key in enumerate(rows.keys):
        image = None if ids[row] is not None and _nameless(rows, row) else key
        groups[ids[row], image, contexts[row]].append(row)
    return list(groups.values()), ids, contexts


def _captions(rows: Rows, group: list[int], name: str, missing: Collection[str]) -> tuple[list[str], list[Bad]]:
    """The captions of the rows that are one sample, and what is wrong with it; `missing` are files."""
    cells = [captions_in(rows.cells.captions[row]) for row in group]
    captions = [text for own, _ in cells for text in own]
    faults = [Bad(MISSING, name, file) for file in rows.files[group[0]] if file in missing]
    if not captions or any(blank for _, blank in cells):
        faults.append(empty(name, captions))
    return captions, faults


def _nameless(rows: Rows, row: int) -> bool:
    """Whether nothing but its place tells this row's image from others."""
    return rows.keys[row] in (row, str(row))


def _duplicates(rows: Rows, groups: list[list[int]], ids: list[str | None], chosen: Sequence[int]) -> list[Bad]:
    images = defaultdict(dict)
    for place in chosen:
        first = groups[place][0]
        if ids[first] is not None and not _nameless(rows, first):
            images[ids[first]][rows.keys[first]] = rows.names[first]
    return [Bad(DUPLICATE, name, some(own.values(), 3), False) for name, own in images.items() if len(own) > 1]


def empty(name: str, captions: Sequence[str]) -> Bad:
    """A sample with a blank caption: it is used where it has others."""
    return Bad(EMPTY, name, f"{len(captions)} others are used" if captions else "it has no other", not captions)


def _check_share(bad: list[Bad], total: int, kept: int, limit: float, where: str) -> None:
    lost = [fault for fault in bad if fault.left_out]
    if total - kept > limit * total or not kept:
        kind = next(kind for kind in REMEDIES if any(fault.kind == kind for fault in lost))
        names = [fault.why if kind == MISSING else fault.id for fault in lost if fault.kind == kind]
        what, remedy = REMEDIES[kind]
        raise DataError(
            f"{where} has {len(set(names))} {what}: {some(dict.fromkeys(names), 3)}; {remedy}; `data.max_bad_share` "
            f"is {limit}, but {total - kept} of {total} samples cannot be used"
        )
    if lost:
        logger.warning("%s: %d of %d samples are left out, %s", where, total - kept, total, lost[0].kind)


def ranges(split: str, name: str, count: int) -> list[range]:
    """The places of a split of `count` that a name or a slice of it takes.

    Raises:
        DataError: not a slice.
    """
    if split == name:
        return [range(count)]
    try:
        parts = ReadInstruction.from_spec(split).to_absolute({name: count})
    except (ValueError, AssertionError) as error:
        raise DataError(f"{split!r} is not a slice of a split; write {name}[:95%] or {name}[:1000]") from error
    return [range(part.from_, part.to) for part in parts]


def captions_in(value: Any) -> tuple[list[str], bool]:
    """The captions in one cell without blank ones, and whether there were any of those."""
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(texts, list) or not all(isinstance(text, str | None) for text in texts):
        raise DataError(f"captions must be text or lists of text, but one is {value!r}; set `data.caption_column`")
    kept = [text.strip() for text in texts if text and text.strip()]
    return kept, len(kept) < len(texts)


def context_in(value: Any) -> str | None:
    """The context in one cell; lists are joined."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
    return text.strip() or None


def _unique(names: list[str]) -> list[str]:
    """The names, or where two are equal all with their place."""
    return names if len(set(names)) == len(names) else [f"{name}#{place}" for place, name in enumerate(names)]


def _missing(files: Iterable[str]) -> list[str]:
    """The files that are not there; every folder is listed once and no file is opened."""
    listed: dict[str, set[str]] = {}
    missing = []
    for file in files:
        folder, name = os.path.split(file)
        if folder not in listed:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in listed[folder]:
            missing.append(file)
    return missing
