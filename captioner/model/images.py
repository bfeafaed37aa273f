"""From photos in any form to upright RGB, and lists of them to one tensor.

What is let in of files is in `image_files.py`, the pixels that an encoder takes in `image_settings.py`. Knows nothing
about text. Letters: B, H, W as in every file; C channels, I images of a sample.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, ImageOps
from torch import Tensor

from .image_files import MAX_PIXELS, TOO_LARGE, check_image, check_pixels, opened

CHANNELS = (1, 3, 4)
# Values that may stand for white in a deep grey image; the first that no pixel exceeds is taken.
WHITES = dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), (65535,)) | {
    "I": (255, 65535),
    "F": (1, 255, 65535),
}
BAND = 1 << 22  # pixels of a large image that are converted at a time


class ImageError(ValueError):
    """An image that cannot be read; the message names the source and the reason in one line."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn a PIL image of any mode into RGB: upright by EXIF, transparency on white, deep greys scaled.

    Of an animation, the frame at which `image` stands is taken: the first one where it was just opened. What
    already is upright RGB in memory is returned itself, not a copy.
    """
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in WHITES:
        image = _eight_bits(image, WHITES[image.mode])
    elif image.has_transparency_data:
        return _on_white(image)
    if image.mode != "RGB":
        return image.convert("RGB")
    return image.copy() if isinstance(image, ImageFile.ImageFile) else image  # lets go of the file


def _bands(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """First and last row of each band of a width and height; one for most images."""
    width, height = size
    rows = max(1, BAND // width)
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


def _on_white(image: Image.Image) -> Image.Image:
    whole = Image.new("RGB", image.size)
    for top, bottom in _bands(image.size):
        box = (0, top, image.width, bottom)
        band = image.crop(box).convert("RGBA")
        whole.paste(Image.alpha_composite(Image.new("RGBA", band.size, "white"), band).convert("RGB"), box)
    return whole


def _eight_bits(image: Image.Image, whites: tuple[int, ...]) -> Image.Image:
    deep, grey = np.asarray(image), np.empty(image.size[::-1], np.uint8)
    most = max(_lights(deep[slice(*rows)]).max() for rows in _bands(image.size))
    white = next((white for white in whites if most <= white), most)
    for rows in _bands(image.size):
        grey[slice(*rows)] = (_lights(deep[slice(*rows)]) * (255 / white)).round().astype(np.uint8)
    return Image.fromarray(grey)


def _lights(deep: np.ndarray) -> np.ndarray:
    return np.nan_to_num(deep.astype(np.float64), posinf=0, neginf=0).clip(0)


def pixels_of(image: Image.Image) -> np.ndarray:
    """An RGB image as uint8 (H, W, 3)."""
    if image.width * image.height <= BAND:
        return np.array(image)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top, bottom in _bands(image.size):
        pixels[top:bottom] = image.crop((0, top, image.width, bottom))
    return pixels


def open_image(source: Any, least: int | None = None, most: int = MAX_PIXELS) -> Image.Image:
    """Read an image from nearly anything and return it as RGB.

    Args:
        source: a PIL image; a path; encoded bytes; `{"bytes": …, "path": …}` as in `datasets`; an array or
            tensor (H, W), (H, W, C) or (C, H, W) of uint8 or of floats in 0…1, C being 1, 3 or 4. Where both
            ends could be channels, arrays are read as (H, W, C) and tensors as (C, H, W).
        least: pixels that each side of what is returned must have; a larger JPEG may be decoded at 1/2, 1/4 or 1/8 of
            its size, which is several times faster. None: every image has its own size.
        most: pixels that it may have; more are refused before any is decoded.

    Raises:
        ImageError: whatever went wrong: missing, truncated, not an image, too large, wrong shape, …
    """
    try:
        return _read(source, least, most)
    except Exception as error:  # Pillow's decoders raise a dozen unrelated types on damaged files
        raise ImageError(f"cannot read the image {_describe(source)}: {reason(error)}") from error


def _read(source: Any, least: int | None, most: int) -> Image.Image:
    if isinstance(source, Mapping):
        source = source.get("path") if source.get("bytes") is None else source["bytes"]
    if isinstance(source, Image.Image):
        check_image(source, most)
        return to_rgb(source)
    if isinstance(source, np.ndarray | Tensor):
        return to_rgb(_from_array(source, most))
    if isinstance(source, list | tuple):
        raise TypeError("a batch is a list of samples, and a sample an image or a list of its images, nothing deeper")
    if not isinstance(source, str | os.PathLike | bytes | bytearray):
        raise TypeError("give a PIL image, a path, bytes, an array or a tensor")
    with opened(source, most) as image:
        if least is not None:
            image.draft(None, (least, least))
        return to_rgb(image)


def _from_array(source: np.ndarray | Tensor, most: int) -> Image.Image:
    is_array = isinstance(source, np.ndarray)
    pixels = torch.from_numpy(source.copy()) if is_array else source.detach().cpu()
    if pixels.ndim not in (2, 3):
        raise ValueError("an image has two or three dimensions; give several as a list")
    if pixels.ndim == 3:
        end = next((end for end in ((-1, 0) if is_array else (0, -1)) if pixels.shape[end] in CHANNELS), None)
        if end is None:
            raise ValueError("the first or the last dimension must be 1, 3 or 4 channels")
        pixels = pixels.movedim(end, -1)
    check_pixels((pixels.shape[1], pixels.shape[0]), most)
    pixels = _to_uint8(pixels)
    return Image.fromarray((pixels[..., 0] if pixels.shape[2:] == (1,) else pixels).numpy())


def _to_uint8(pixels: Tensor) -> Tensor:
    if pixels.is_floating_point():
        low, high = pixels.float().aminmax()
        if not (low.isfinite() and high.isfinite()):
            raise ValueError("floats must lie in 0…1, but some are NaN or infinite; see where they come from")
        if not (low >= -0.001 and high <= 1.001):
            raise ValueError(f"floats must lie in 0…1, but go from {low:g} to {high:g}; rescale them")
        pixels = (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8)
    if pixels.dtype != torch.uint8:
        raise ValueError(f"numbers must be uint8 or floats in 0…1, but are {pixels.dtype}; convert them")
    return pixels


def _describe(source: Any) -> str:
    if isinstance(source, Mapping):
        source = source.get("path") or source.get("bytes")
    if isinstance(source, str | os.PathLike):
        return f"'{source}'"
    if isinstance(source, bytes | bytearray):
        return f"in {len(source)} bytes"
    shape = f" of shape {tuple(source.shape)}" if hasattr(source, "shape") else ""
    return f"given as {type(source).__name__}{shape}"


def reason(error: Exception) -> str:
    """Say in one line what went wrong."""
    if isinstance(error, Image.DecompressionBombError):  # of a frame that Pillow meets on its way
        return f"{str(error).partition(',')[0]}; {TOO_LARGE}"
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


def each(function: Callable[[Any], Any], image: Any) -> Any:
    """Apply a function to an image or to every image of a list; what is None stays None."""
    if isinstance(image, list | tuple):
        return [None if one is None else function(one) for one in image]
    return None if image is None else function(image)


def as_list(image: Any) -> list[Any]:
    """The images of a sample; none of one that has no image."""
    return [] if image is None else list(image) if isinstance(image, list | tuple) else [image]


def is_one(value: Any) -> bool:
    """Whether a value is one sample and no batch: a text, a path, bytes, an image, an array (H, W) or (H, W, C)."""
    dimensions = getattr(value, "ndim", None)
    if dimensions is not None:
        return dimensions in (0, 2, 3)
    return isinstance(value, str | bytes | bytearray | Mapping) or not isinstance(value, Iterable)


def as_batch(value: Any) -> list[Any]:
    """A batch as a list; a single item becomes a list of one."""
    return [value] if is_one(value) else list(value)


def stack(samples: Sequence[Any], blank: Tensor) -> tuple[Tensor, Tensor]:
    """Tensors of B samples, each one, None or a list of them → a batch, and which of its images are there.

    Args:
        blank: what stands where there is no image, of the shape of all.

    Returns:
        (B, …) and (B,) bool where no sample has more than one image; else (B, I, …) and (B, I).
    """
    groups = [as_list(sample) for sample in samples]
    most = max([1, *map(len, groups)])
    batch, mask = blank.repeat(len(groups), most, *[1] * blank.ndim), torch.zeros(len(groups), most, dtype=torch.bool)
    for row, group in enumerate(groups):
        for place, image in enumerate(group):
            if image is not None:
                batch[row, place], mask[row, place] = image, True
    return (batch, mask) if most > 1 else (batch[:, 0], mask[:, 0])
