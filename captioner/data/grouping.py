"""Rows of a source to the samples of a split: captions of one image together, without what cannot be used.

Knows nothing about files of annotations or tensors; no image is opened.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from datasets import Dataset, Features, List, ReadInstruction, Value, concatenate_datasets

from ..base import all_existing, some
from ..model import each
from .faults import EMPTY, MISSING, UNREADABLE, UNREADABLE_CAPTION, Bad, DataError
from .groups import Groups
from .held_out import Held
from .identity import Identity
from .rows import Rows, holds_paths

logger = logging.getLogger(__name__)

TEXTS = Features({"captions": List(Value("string")), "context": Value("string"), "id": Value("string")})
REMEDIES = {
    EMPTY: ("samples without a caption", "give each at least one, or remove it"),
    MISSING: ("image files missing", "put them there, set `data.path`, or remove their rows"),
    UNREADABLE_CAPTION: ("captions that cannot be read", "repair them, or remove them with their photos"),
    UNREADABLE: ("images that cannot be read", "rename or repair them"),
}


class Samples:
    """One split: map-style and picklable, its images still encoded.

    Args:
        images: the column `image`, and one for each further modality.
        texts: the columns `captions`, `context` and `id`; iterate it to read texts without images.
        bad: what is wrong with the split, and which samples are left out of it for that.
        identity: tells its samples from those of another split; None where that is not known.
    """

    def __init__(self, images: Dataset, texts: Dataset, bad: Iterable[Bad] = (), identity: Identity | None = None):
        self.images, self.texts, self.bad, self.identity = images, texts, list(bad), identity

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.images[index], **self.texts[index]}


def samples_of(
    rows: Rows,
    split: str,
    where: str,
    limit: int | None = None,
    max_bad_share: float = 0.0,
    whole: bool = False,
    held: Held | None = None,
) -> Samples:
    """One sample per image and context, its captions in the order of the rows.

    Args:
        split: a name or a slice; samples that cannot be used count in it, so that it stays the same without a file.
        where: names the data in errors.
        limit: samples at most.
        max_bad_share: the share of samples that may be left out.
        whole: the rows are the slice already.
        held: which part of the images is meant; None: all.

    Raises:
        DataError: no samples, or too many that cannot be used.
    """
    groups = Groups(rows)
    if not groups.members:
        raise DataError(f"{where} is empty; give it at least one image with a caption")
    name = split.partition("[")[0]
    chosen = [place for part in ranges(name if whole else split, name, len(groups.members)) for place in part]
    chosen = (chosen if held is None else held.of(groups, chosen))[:limit]
    if not chosen:
        raise DataError(f"{where} is empty: the slice takes none of {len(groups.members)} samples; widen it")
    return _usable(groups, chosen, where, max_bad_share)


def _usable(groups: Groups, chosen: Sequence[int], where: str, max_bad_share: float) -> Samples:
    """The chosen samples that have what they need."""
    rows, bad, kept = groups.source, groups.duplicates(chosen), []
    texts: dict[str, list] = {"captions": [], "context": [], "id": []}
    files = all_existing(file for place in chosen for file in rows.files[groups.first(place)])
    for place in chosen:
        captions, faults = groups.checked(place, files)
        bad += faults
        if not any(fault.left_out for fault in faults):
            kept.append(place)
            for column, value in zip(texts, (captions, groups.context(place), groups.names[place]), strict=True):
                texts[column].append(value)
    _check_share(bad, len(chosen), len(kept), max_bad_share, where)
    firsts = [groups.first(place) for place in kept]
    images = rows.images if firsts == list(range(len(rows.images))) else rows.images.select(firsts)
    images = _renamed(images, {file: there for file, there in files.items() if there not in (None, file)})
    return Samples(images, Dataset.from_dict(texts, features=TEXTS), [*rows.notes, *bad], groups.identity(kept))


def _renamed(images: Dataset, names: dict[str, str]) -> Dataset:
    """The images under the names that their files have on the disk."""
    if not names or not holds_paths(images.features["image"]):
        return images
    column = [each(lambda file: names.get(file, file), own) for own in images["image"][:]]
    others = [name for name in images.column_names if name != "image"]
    renamed = Dataset.from_dict({"image": column}, features=Features({"image": images.features["image"]}))
    return concatenate_datasets([renamed, images.select_columns(others)], axis=1) if others else renamed


def _check_share(bad: list[Bad], total: int, kept: int, limit: float, where: str) -> None:
    lost = [fault for fault in bad if fault.left_out]
    if total - kept > limit * total or not kept:
        kind = next(kind for kind in REMEDIES if any(fault.kind == kind for fault in lost))
        names = [fault.id if kind == EMPTY else fault.why for fault in lost if fault.kind == kind]
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
