"""What the splits of a data set are called: names that stand for each other, and names that nobody has.

Knows nothing about files or rows.
"""

from collections.abc import Collection
from difflib import get_close_matches
from typing import Any

from ..base import some
from .faults import DataError

SAME_SPLIT = ("validation", "val", "valid", "dev")
WHOLE = ("train", "test", "all")  # names that rows without splits answer to, besides those above


def names_of(split: str) -> tuple[str, ...]:
    """The names under which a split may be found."""
    return (split, *(name for name in SAME_SPLIT if name != split)) if split in SAME_SPLIT else (split,)


def choose_split(split: str, names: Collection[str], where: Any) -> str:
    """The name that stands for a split among those that there are.

    Raises:
        DataError: none does.
    """
    if split in names:
        return split
    same = [name for name in names if name in names_of(split)]
    if len(same) != 1:
        remedy = "set `data.train_split` or `data.validation_split`"
        raise DataError(f"{where} has no split {split!r} but {some(names)}; {remedy}")
    return same[0]


def is_of_another(name: str, split: str) -> bool:
    """Whether what has this name is of a split, and not of the one that is asked for."""
    return name in (*WHOLE, *SAME_SPLIT) and name not in names_of(split)


def check_known(split: str, where: Any, own: str = "") -> None:
    """Make sure that rows without splits are asked for by a name that splits have, not by a slip of the pen.

    Args:
        own: what the rows are called besides.

    Raises:
        DataError: another name.
    """
    known = list(dict.fromkeys(filter(None, (*WHOLE, *SAME_SPLIT, own))))
    if split not in known:
        near = get_close_matches(split, known, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"{where} has no split {split!r}: it has no splits and serves as {some(known)}{meant}")
