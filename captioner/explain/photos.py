"""Photos as they are shown beside a caption: the part that the encoder saw, large enough and not too large.

Knows pictures and how they were cropped; knows nothing about what was looked at.
"""

from collections.abc import Callable

from PIL import Image

from ..model import ImageSettings


def seen_part(photo: Image.Image, settings: ImageSettings) -> Image.Image:
    """What remains of an RGB photo after `ImageSettings.fit`, at the photo's own resolution; borders are black."""
    box = _BOXES[settings.crop_mode](photo.size, settings)
    left, top = ((whole - part) / 2 for whole, part in zip(photo.size, box, strict=True))
    if (left, top) == (0, 0):
        return photo
    return photo.crop(tuple(map(round, (left, top, left + box[0], top + box[1]))))


def _squashed(size: tuple[int, int], settings: ImageSettings) -> tuple[float, float]:
    """Width and height in the photo's pixels of what becomes the encoder's picture, where each side is scaled alone."""
    return size[0] * settings.crop_pct, size[1] * settings.crop_pct


def _in_shape(
    choose: Callable[..., float],
) -> Callable[[tuple[int, int], ImageSettings], tuple[float, float]]:
    """The same where the photo keeps its shape."""

    def box(size: tuple[int, int], settings: ImageSettings) -> tuple[float, float]:
        factor = choose(settings.width / size[0], settings.height / size[1]) / settings.crop_pct
        return settings.width / factor, settings.height / factor

    return box


_BOXES = {"squash": _squashed, "center": _in_shape(max), "border": _in_shape(min)}


def enlarged(photo: Image.Image, least: int) -> Image.Image:
    """A small picture in whole crisp squares until its shorter side has `least` pixels; a large one as it is."""
    times = -(-least // min(photo.size))
    return photo if times <= 1 else photo.resize((photo.width * times, photo.height * times), Image.Resampling.NEAREST)


def reduced(photo: Image.Image, most: int) -> Image.Image:
    """A large photo with its longer side brought to `most` pixels; a small one as it is."""
    small = photo.copy()
    small.thumbnail((most, most), Image.Resampling.LANCZOS)
    return small
