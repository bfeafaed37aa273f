"""A heat map over the part of a photo that the encoder saw: where little was looked at, a veil lies over it.

Knows images and numbers; knows nothing about captions or pages.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image
from torch import Tensor

from ..model import ImageSettings

DARK, LIGHT = (14, 18, 34), (238, 240, 245)  # veils for light and for dark photos
DENSEST = 0.9  # of the veil, where nothing was looked at


def seen_part(photo: Image.Image, settings: ImageSettings) -> Image.Image:
    """What remains of an RGB photo after `ImageSettings.fit`, at the photo's own resolution; borders are black."""
    box = _BOXES[settings.crop_mode](photo.size, settings)
    left, top = ((whole - part) / 2 for whole, part in zip(photo.size, box, strict=True))
    if (left, top) == (0, 0):
        return photo
    return photo.crop(tuple(map(round, (left, top, left + box[0], top + box[1]))))


def _squashed(size: tuple[int, int], settings: ImageSettings) -> tuple[float, float]:
    return size[0] * settings.crop_pct, size[1] * settings.crop_pct


def _in_shape(
    choose: Callable[..., float],
) -> Callable[[tuple[int, int], ImageSettings], tuple[float, float]]:
    """Width and height in the photo's pixels of what becomes the encoder's picture."""

    def box(size: tuple[int, int], settings: ImageSettings) -> tuple[float, float]:
        factor = choose(settings.width / size[0], settings.height / size[1]) / settings.crop_pct
        return settings.width / factor, settings.height / factor

    return box


_BOXES = {"squash": _squashed, "center": _in_shape(max), "border": _in_shape(min)}


def veil(photo: Image.Image, heat: Tensor) -> Image.Image:
    """A heat map (height, width) as RGBA of that size: clear at its highest value, densest at 0."""
    heat = np.asarray(heat, dtype=np.float32)
    brightness = heat / max(float(heat.max()), 1e-12)
    is_dark = np.asarray(photo.convert("L")).mean() < 110
    layer = Image.new("RGBA", heat.shape[::-1], LIGHT if is_dark else DARK)
    layer.putalpha(Image.fromarray((255 * DENSEST * (1 - brightness)).round().astype(np.uint8)))
    return layer


def overlay(photo: Image.Image, heat: Tensor) -> Image.Image:
    """The photo (what `seen_part` gave) under the veil of a heat map, as RGB."""
    layer = veil(photo, heat).resize(photo.size, Image.Resampling.BICUBIC)
    return Image.alpha_composite(photo.convert("RGBA"), layer).convert("RGB")


def enlarged(photo: Image.Image, least: int) -> Image.Image:
    """A small picture in whole crisp squares until its shorter side has `least` pixels; a large one as it is."""
    times = -(-least // min(photo.size))
    return photo if times <= 1 else photo.resize((photo.width * times, photo.height * times), Image.Resampling.NEAREST)


def reduced(photo: Image.Image, most: int) -> Image.Image:
    """A large photo with its longer side brought to `most` pixels; a small one as it is."""
    small = photo.copy()
    small.thumbnail((most, most), Image.Resampling.LANCZOS)
    return small
