"""A heat map over a photo: where little was looked at, a veil lies over it.

Knows images and numbers; knows nothing about captions or pages.
"""

import numpy as np
from PIL import Image
from torch import Tensor

DARK, LIGHT = (14, 18, 34), (238, 240, 245)  # veils for light and for dark photos
DENSEST = 0.9  # of the veil, where nothing was looked at


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
