"""How a photo becomes the pixels of an image encoder: size, crop, colours, by settings as timm has them.

Knows nothing about files or text. Letters: B, H, W as in every file; C channels.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from .image_options import local_folder, saved_settings, timm_settings, two_sides
from .images import pixels_of


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
        pixels = torch.from_numpy(pixels_of(image)).permute(2, 0, 1)  # channels last in memory: 4 times faster
        return CROPS[self.crop_mode](pixels, self)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Convert uint8 (…, 3, H, W) to float32 (…, 3, H, W)."""
        numbers = (torch.tensor(values, device=pixels.device) for values in (self.mean, self.std))
        mean, std = (255 * values.view(-1, 1, 1) for values in numbers)
        return pixels.float().sub_(mean).div_(std)


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
