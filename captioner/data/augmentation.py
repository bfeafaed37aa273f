"""Images drawn anew in every epoch: timm's training transform, with the processor's size and colours.

What is drawn is a function of (seed, epoch, index) alone. Knows nothing about captions or files.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor

from ..base import one_line
from ..model import ImageSettings, each, stack
from .dataset import Sample
from .faults import DataError


class Augmentation:
    """Opened images to pixels, by a transform that draws.

    Crops, flips and colour changes are off unless asked for, since captions speak of borders, sides and colours.

    Args:
        options: of `timm.data.create_transform`.
        settings: size and colours of the pixels.
        seed: of what is drawn.

    Raises:
        DataError: an option that timm refuses, or a processor without images.
    """

    def __init__(self, options: dict[str, Any], settings: ImageSettings | None, seed: int = 0):
        if settings is None:
            raise DataError("`data.augment` is set, but the processor has no `image_settings`; set it to {}")
        self.settings, self.seed, self.transform = settings, seed, _transform(options, settings)

    def __call__(self, samples: list[Sample], images: list[Any]) -> dict[str, Tensor]:
        """B samples and their images, one, None or a list of each → `pixel_values` and maybe `image_mask`.

        Their shapes are those that the processor makes, (B, 3, H, W) and (B,).
        """
        augmented = []
        for sample, image in zip(samples, images, strict=True):
            with _seeded(self.seed, sample.get("epoch", 0), sample["index"]):
                augmented.append(each(self.transform, image))
        pixels, mask = stack(augmented, torch.zeros(3, self.settings.height, self.settings.width))
        return {"pixel_values": pixels} if mask.all() else {"pixel_values": pixels, "image_mask": mask}


def _transform(augment: dict[str, Any], settings: ImageSettings) -> Any:
    """timm's transform, tried on a blank photo."""
    from timm.data import create_transform

    size = (3, settings.height, settings.width)
    whole = {"scale": (1.0, 1.0), "ratio": (0.01, 100.0)}
    crop = {} if {"scale", "ratio", "train_crop_mode"} & set(augment) else whole
    colours = {"mean": settings.mean, "std": settings.std, "interpolation": settings.interpolation}
    options = {"hflip": 0.0, "color_jitter": None, **crop, **colours, **augment}
    try:
        transform = create_transform(size, is_training=True, **options)
        with _seeded(0):
            pixels = transform(Pillow.new("RGB", (settings.width, settings.height)))
        if tuple(pixels.shape) != size or not pixels.is_floating_point():
            raise ValueError(f"it makes {pixels.dtype} of shape {tuple(pixels.shape)}")
    except (TypeError, ValueError, AttributeError, AssertionError) as error:
        remedy = "give training options of timm.data.create_transform"
        raise DataError(f"`data.augment` is {augment}: {one_line(error)}; {remedy}") from error
    return transform


@contextmanager
def _seeded(*key: int) -> Iterator[None]:
    """Seed the three global generators that transforms draw from, and put them back."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = random.Random(repr(key)).getrandbits(32)
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
