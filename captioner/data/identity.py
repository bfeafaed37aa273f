"""What tells the samples of one split from those of another: the rows that they come from, and their images.

Knows nothing about files or settings; no image is opened.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

UNKNOWN = 0  # in the place of an image that nothing tells from others


@dataclass(frozen=True)
class Identity:
    """Of M samples.

    Args:
        origin: of their rows.
        places: (M,), of their first rows in the origin.
        images: (M,), equal where name and size of the image are.
    """

    origin: str
    places: np.ndarray
    images: np.ndarray

    @classmethod
    def of(cls, origin: str, places: Sequence[int], images: Sequence[Hashable | None]) -> "Identity":
        """The identity of samples; an image that is None is like no other."""
        hashes = [UNKNOWN if image is None else hash(image) for image in images]
        return cls(origin, np.array(places, np.int64), np.array(hashes, np.int64))

    def rows_in(self, other: "Identity") -> np.ndarray:
        """(M,) bool: which samples are rows of the other split too."""
        if not self.origin or self.origin != other.origin:
            return np.zeros(len(self.places), bool)
        return np.isin(self.places, other.places)

    def images_in(self, other: "Identity") -> dict[int, np.ndarray]:
        """Sample → the samples of the other split that seem to have the same image, where there are any."""
        order = np.argsort(other.images, kind="stable")
        first, last = (np.searchsorted(other.images, self.images, side, order) for side in ("left", "right"))
        shared = np.flatnonzero((first < last) & (self.images != UNKNOWN))
        return {int(place): order[first[place] : last[place]] for place in shared}
