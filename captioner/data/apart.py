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
    images = [
        names[place] for place, rows in own.images_in(other).items() if _is_among(validation, place, training, rows)
    ]
    if images:
        say(f"{len(images)} of {total} validation samples have an image that is trained on too: {some(images, 3)}")
        validation.bad += [Bad(SHARED, name, "it is validated on all the same", False) for name in images]


def _is_among(validation: Any, place: int, training: Any, rows: np.ndarray) -> bool:
    """Whether one of some training samples has the image of a validation sample, to the byte if it is no file."""
    image = validation.images[place]["image"]
    if not isinstance(image, dict) or image["bytes"] is None:
        return True
    return any(training.images[int(row)]["image"]["bytes"] == image["bytes"] for row in rows)
