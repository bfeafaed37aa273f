"""How much memory a search may take to be faster; knows neither layers nor captioners."""

from typing import NamedTuple

UNLIMITED = 2**63


class Budget(NamedTuple):
    """What a layout may use.

    Args:
        copies: bytes of copied matrices.
        key_value: bytes of keys and values of the memory, at a time and over all layers.
        rows: with more rows than these only the vocabulary head is copied: the decoder's blocks gain little.
    """

    copies: int
    key_value: int
    rows: int


LAYOUTS = {
    "small": Budget(0, 0, 0),
    "auto": Budget(2**27, 2**26, 16),
    "fast": Budget(UNLIMITED, UNLIMITED, UNLIMITED),
}


class LayoutError(ValueError):
    """A layout that there is not."""
