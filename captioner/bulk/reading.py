"""Items to pixels, contexts and features, in worker processes; whatever is wrong becomes a reason, not an error.

Knows nothing about captioners.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..model import MAX_PIXELS, ImageSettings, ModalityInput, open_image, reason
from .contexts import Context
from .inputs import Item

MIN_SIDE = 2


@dataclass
class Reading:
    """What was read of an item.

    Args:
        item: without its image and columns, which stay in the worker.
        pixels: uint8 (3, H, W), a list of those where there are several images; None where there is no image.
        context: what is known about the image, or None.
        store_pixels: uint8 (3, H, W) for the encoder of a caption store, until captions were retrieved by them.
        further: further modalities by name, as `ModalityInput.read` gives them; absent ones are not there.
        error: why it cannot be read.
    """

    item: Item
    pixels: Tensor | list[Tensor] | None = None
    context: str | None = None
    store_pixels: Tensor | None = None
    further: dict[str, Tensor] = field(default_factory=dict)
    error: str | None = None


@dataclass
class Reader(Dataset):
    """Items to `Reading`s: decoded, upright, resized.

    Args:
        settings: size of the pixels; None where no item has an image.
        context: what makes contexts, or None.
        max_pixels: an image with more is refused before it is decoded.
        store_settings: size of the pixels for a caption store, or None.
        further: further modalities, each read from the column of its name.
    """

    settings: ImageSettings | None
    context: Context | None = None
    max_pixels: int = MAX_PIXELS
    store_settings: ImageSettings | None = None
    further: Mapping[str, ModalityInput] = field(default_factory=dict)

    def __getitem__(self, item: Item) -> Reading:
        reading = Reading(replace(item, image=None, columns={}))
        try:
            if item.image is not None:
                images = [self._open(own) for own in _per_image(item)]
                fitted = [self.settings.fit(image) for image in images]
                reading.pixels = fitted if len(fitted) > 1 else fitted[0]
                reading.store_pixels = self.store_settings and self.store_settings.fit(images[0])
            reading.context = self.context(item) if self.context else None
            reading.further = {
                name: own.read(_located(item, value), name)
                for name, own in self.further.items()
                if (value := item.columns.get(name)) is not None
            }
            if item.image is None and reading.context is None and not reading.further:
                raise ValueError("there is neither an image nor a context")
        except Exception as error:  # one image, whatever it does, must not end the run
            reading.error = reason(error)
        return reading

    def _open(self, item: Item) -> Image.Image:
        image = open_image(item.image, self._least(), self.max_pixels)
        if min(image.size) < MIN_SIDE:
            width, height = image.size
            raise ValueError(f"the image is {width} pixels wide and {height} high; each must be at least {MIN_SIDE}")
        return image

    def _least(self) -> int:
        """Twice the pixels that are needed, so that resizing still averages over what is there."""
        sizes = [size for size in (self.settings, self.store_settings) if size is not None]
        return max(math.ceil(2 * max(size.height, size.width) / size.crop_pct) for size in sizes)


def _located(item: Item, value: Any) -> Any:
    """A path from the folder of its table; other values as they are."""
    return os.path.join(item.folder, value) if isinstance(value, str) else value


def _per_image(item: Item) -> list[Item]:
    """An item for each of its images."""
    if not isinstance(item.image, list):
        return [item]
    return [replace(item, image=own, file=own if isinstance(own, str) else None) for own in item.image]
