"""From photos in any form to the pixels of an image encoder: reading, colours, size, normalisation, one tensor of all.

Knows nothing about text. Letters: B, H, W as in every file; C channels, I images of a sample.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from .image_options import local_folder, saved_settings, timm_settings

CHANNELS = (1, 3, 4)
# Values that may stand for white in a deep grey image; the first that no pixel exceeds is taken.
WHITES = dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), (65535,)) | {
    "I": (255, 65535),
    "F": (1, 255, 65535),
}


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
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode != "RGB":
        return image.convert("RGB")
    return image.copy() if isinstance(image, ImageFile.ImageFile) else image  # lets go of the file


def _eight_bits(image: Image.Image, whites: tuple[int, ...]) -> Image.Image:
    grey = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0).clip(0)
    white = next((white for white in whites if grey.max() <= white), grey.max())
    return Image.fromarray((grey * (255 / white)).round().astype(np.uint8))


def open_image(source: Any, least: int | None = None) -> Image.Image:
    """Read an image from nearly anything and return it as RGB.

    Args:
        source: a PIL image; a path; encoded bytes; `{"bytes": …, "path": …}` as in `datasets`; an array or
            tensor (H, W), (H, W, C) or (C, H, W) of uint8 or of floats in 0…1, C being 1, 3 or 4. Where both
            ends could be channels, arrays are read as (H, W, C) and tensors as (C, H, W).
        least: pixels that each side of what is returned must have; a larger JPEG may be decoded at 1/2, 1/4 or 1/8 of
            its size, which is several times faster. None: every image has its own size.

    Raises:
        ImageError: whatever went wrong: missing, truncated, not an image, too large, wrong shape, …
    """
    try:
        return _read(source, least)
    except Exception as error:  # Pillow's decoders raise a dozen unrelated types on damaged files
        raise ImageError(f"cannot read the image {_describe(source)}: {reason(error)}") from error


def _read(source: Any, least: int | None) -> Image.Image:
    if isinstance(source, Mapping):
        source = source.get("path") if source.get("bytes") is None else source["bytes"]
    if isinstance(source, Image.Image):
        return to_rgb(source)
    if isinstance(source, np.ndarray | Tensor):
        return to_rgb(_from_array(source))
    if not isinstance(source, str | os.PathLike | bytes | bytearray):
        raise TypeError("give a PIL image, a path, bytes, an array or a tensor")
    with Image.open(BytesIO(source) if isinstance(source, bytes | bytearray) else source) as image:
        if least is not None:
            image.draft(None, (least, least))
        return to_rgb(image)


def _from_array(source: np.ndarray | Tensor) -> Image.Image:
    is_array = isinstance(source, np.ndarray)
    pixels = torch.from_numpy(source.copy()) if is_array else source.detach().cpu()
    if pixels.ndim == 2:
        return Image.fromarray(_to_uint8(pixels).numpy())
    if pixels.ndim != 3:
        raise ValueError("an image has two or three dimensions")
    end = next((end for end in ((-1, 0) if is_array else (0, -1)) if pixels.shape[end] in CHANNELS), None)
    if end is None:
        raise ValueError("the first or the last dimension must be 1, 3 or 4 channels")
    pixels = _to_uint8(pixels.movedim(end, -1))
    return Image.fromarray((pixels[..., 0] if pixels.shape[-1] == 1 else pixels).numpy())


def _to_uint8(pixels: Tensor) -> Tensor:
    if pixels.is_floating_point():
        low, high = pixels.float().aminmax()
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
    if isinstance(error, UnidentifiedImageError):
        return "it is not in an image format that Pillow reads"
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


@dataclass
class ImageSettings:
    """How a photo becomes pixels; names and meanings are those of timm's data configs.

    The crops are those of `timm.data.create_transform` to one level of 255, but of tensors: that takes 3 ms for a
    photo of 640 × 480 where timm's takes 8, equals transformers' ViT processor bit for bit, and loads no timm.

    Args:
        height: H of the tensors.
        width: W of the tensors.
        mean: per channel, for values in 0…1.
        std: likewise.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos", antialiased.
        crop_pct: share of each side that is kept.
        crop_mode: "squash" (stretch), "center" (cut the longer side) or "border" (pad the shorter side with
            the mean colour). With `crop_pct=1.0`, "squash" and "border" keep the whole photo.

    Raises:
        ValueError: an unknown crop mode or interpolation, or a number out of range.
    """

    height: int
    width: int
    mean: Sequence[float] = (0.5, 0.5, 0.5)
    std: Sequence[float] = (0.5, 0.5, 0.5)
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "squash"

    def __post_init__(self) -> None:
        self.mean, self.std = tuple(self.mean), tuple(self.std)
        for name, choices in (("crop_mode", CROPS), ("interpolation", INTERPOLATIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` must be one of {', '.join(choices)}, but is {getattr(self, name)!r}")
        if min(self.height, self.width) < 1:
            raise ValueError(f"height and width must be at least 1, but are {self.height} and {self.width}")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"`crop_pct` must lie above 0 and up to 1, but is {self.crop_pct}; 1.0 keeps all")
        if len(self.mean) != 3 or len(self.std) != 3 or 0 in self.std:
            raise ValueError(f"`mean` and `std` need 3 numbers, no std 0, but are {self.mean} and {self.std}")

    @classmethod
    def for_encoder(cls, image_encoder: Mapping[str, Any]) -> "ImageSettings":
        """Take the data config of a timm backbone by name, without building it.

        timm's own crop cuts off borders that captions speak about, so the whole photo is kept unless asked.

        Args:
            image_encoder: as in `CaptionerConfig`: `name`, `image_size` (one number, or height and width;
                timm's where missing) and optionally `mean`, `std`, `interpolation`, `crop_pct`, `crop_mode`.

        Raises:
            ValueError: a name that timm does not know.
        """
        data = _timm_data_config(image_encoder["name"]) | {"crop_pct": 1.0, "crop_mode": "squash"}
        height, width = two_sides(image_encoder.get("image_size") or data.pop("input_size")[1:])
        keys = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
        return cls(height, width, **{key: image_encoder.get(key, data[key]) for key in keys})

    def fit(self, image: Image.Image) -> Tensor:
        """RGB image to uint8 (3, H, W), resized and cropped: all that the encoder will see of it."""
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # channels last in memory: 4 times faster
        return CROPS[self.crop_mode](pixels, self)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Convert uint8 (…, 3, H, W) to float32 (…, 3, H, W)."""
        numbers = (torch.tensor(values, device=pixels.device) for values in (self.mean, self.std))
        mean, std = (255 * values.view(-1, 1, 1) for values in numbers)
        return pixels.float().sub_(mean).div_(std)


def two_sides(size: int | Sequence[int]) -> tuple[int, int]:
    """Read an image size, one number or two, as height and width."""
    return (size, size) if isinstance(size, int) else tuple(size)


def _timm_data_config(name: str) -> dict[str, Any]:
    from timm.data import resolve_data_config
    from timm.models import is_model

    folder = local_folder(name)
    if folder is not None:
        return resolve_data_config({}, saved_settings(folder).get("pretrained_cfg") or {})
    if not is_model(name):
        raise ValueError(f"timm has no model {name!r}; timm.list_models() names them")
    cfg = timm_settings(name)
    return resolve_data_config({}, cfg.to_dict() if cfg else {"crop_pct": None})


def _resize(pixels: Tensor, size: Sequence[int], settings: ImageSettings) -> Tensor:
    return functional.resize(pixels, list(size), InterpolationMode(settings.interpolation), antialias=True)


def _before_crop(settings: ImageSettings) -> tuple[int, int]:
    return math.floor(settings.height / settings.crop_pct), math.floor(settings.width / settings.crop_pct)


def _resize_in_shape(pixels: Tensor, settings: ImageSettings, choose: Callable, to_int: Callable) -> Tensor:
    sides = pixels.shape[-2:]
    factor = choose(Fraction(target, side) for target, side in zip(_before_crop(settings), sides, strict=True))
    return _resize(pixels, [max(1, to_int(side * factor)) for side in sides], settings)


def _squash(pixels: Tensor, settings: ImageSettings) -> Tensor:
    pixels = _resize(pixels, _before_crop(settings), settings)
    return functional.center_crop(pixels, [settings.height, settings.width])


def _center(pixels: Tensor, settings: ImageSettings) -> Tensor:
    pixels = _resize_in_shape(pixels, settings, max, math.floor)
    return functional.center_crop(pixels, [settings.height, settings.width])


def _border(pixels: Tensor, settings: ImageSettings) -> Tensor:
    pixels = _resize_in_shape(pixels, settings, min, round)
    missing = (max(0, settings.width - pixels.shape[-1]), max(0, settings.height - pixels.shape[-2]))
    before, after = [side // 2 for side in missing], [(side + 1) // 2 for side in missing]
    pixels = functional.pad(pixels, before + after, fill=[round(255 * value) for value in settings.mean])
    return functional.center_crop(pixels, [settings.height, settings.width])


CROPS = {"squash": _squash, "center": _center, "border": _border}
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


def each(function: Callable[[Any], Any], image: Any) -> Any:
    """Apply a function to an image or to every image of a list; what is None stays None."""
    if isinstance(image, list | tuple):
        return [each(function, one) for one in image]
    return None if image is None else function(image)


def as_list(image: Any) -> list[Any]:
    """The images of a sample; none of one that has no image."""
    return [] if image is None else list(image) if isinstance(image, list | tuple) else [image]


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
