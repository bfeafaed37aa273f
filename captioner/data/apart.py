"""Whether what is validated on was trained on: the same rows, or the same images from other files.

Knows nothing about how splits are read; opens no image, but compares the bytes of those that seem the same.
"""

from typing import Any

import numpy as np

from ..base import DataSettings, say, some
from .faults import SHARED, Bad, DataError

HOLD_OUT = (
    "hold some out with 'data.train_split=train[:90%]' 'data.validation_split=train[90%:]', or with data.hold_out=0.1; "
    "to validate on what is trained on, give both splits the same name"
)


def note_shared(training: Any, validation: Any, settings: DataSettings) -> None:
    """Compare two splits that have an `identity`; others are taken to be apart.

    Each validation sample whose image is in other files trained on too is noted in `validation.bad`.

    Raises:
        DataError: both have some of the same rows, though they are not given the same name.
    """
    own, other = (getattr(split, "identity", None) for split in (validation, training))
    if own is None or other is None:
        return
    if settings.train_split == settings.validation_split and settings.hold_out is None:
        say(f"training and validation are both {settings.train_split!r}: scores are of what was trained on")
        return
    names, total = validation.texts["id"][:], len(own.places)
    rows = [names[place] for place in np.flatnonzero(own.rows_in(other))]
    if rows:
        raise DataError(
            f"{len(rows)} of {total} samples of split {settings.validation_split!r} are the same as in split "
            f"{settings.train_split!r}, so validation would score what was trained on: {some(rows, 3)}; {HOLD_OUT}"
        )
    images = [names[place] for place in np.flatnonzero(_confirmed(own.images_in(other), validation, training) >= 0)]
    if images:
        say(f"{len(images)} of {total} validation samples have an image that is trained on too: {some(images, 3)}")
        validation.bad += [Bad(SHARED, name, "it is validated on all the same", False) for name in images]


def _confirmed(images: np.ndarray, validation: Any, training: Any) -> np.ndarray:
    """The same without those that differ in a byte though name and size are the same."""
    result = images.copy()
    for place in np.flatnonzero(images >= 0):
        pair = [split.images[int(row)]["image"] for split, row in ((validation, place), (training, images[place]))]
        if all(isinstance(image, dict) for image in pair) and pair[0]["bytes"] != pair[1]["bytes"]:
            result[place] = -1
    return result
