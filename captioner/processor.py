"""From photos, contexts and captions to tensors, and from token ids back to text.

Knows pixels, tokenizers and special tokens; knows nothing about weights, datasets or runs.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional
from transformers import (
    AutoTokenizer,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import PushToHubMixin, cached_file

from .configuration import CaptionerConfig

PROCESSOR_FILE = "processor_config.json"
CONTEXT_FOLDER = "context_tokenizer"
IGNORED_LABEL = -100
SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}

# The values that may stand for white, smallest first; the first one that no pixel exceeds is taken.
WHITES = {
    "I;16": (65535,),
    "I;16L": (65535,),
    "I;16B": (65535,),
    "I;16N": (65535,),
    "I": (255, 65535),
    "F": (1, 255, 65535),
}


class ImageError(ValueError):
    """An image that cannot be read; the message names the source and the reason in one line."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn a PIL image of any mode into RGB: upright by its EXIF tag, transparency on white, deep greys scaled.

    Of an animation, the frame at which `image` stands is taken: the first one where it was just opened.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode in WHITES:
        image = _eight_bits(image, WHITES[image.mode])
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image, whites: tuple[int, ...]) -> Image.Image:
    grey = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0, neginf=0).clip(0)
    white = next((white for white in whites if grey.max() <= white), grey.max())
    return Image.fromarray((grey * (255 / white)).round().astype(np.uint8))


def open_image(source: Any) -> Image.Image:
    """Read an image from nearly anything and return it as RGB.

    Args:
        source: a PIL image; a path; encoded bytes; `{"bytes": …, "path": …}` as in `datasets`; or an array or tensor
            (H, W), (H, W, C) or (C, H, W) of uint8 or of floats in 0…1, C being 1, 3 or 4. Where both ends could be
            channels, arrays are taken as (H, W, C) and tensors as (C, H, W).

    Raises:
        ImageError: whatever went wrong: missing, truncated, not an image, too large, wrong shape, …
    """
    try:
        return _read(source)
    except Exception as error:  # Pillow's decoders raise a dozen unrelated types on damaged files
        raise ImageError(f"cannot read the image {_describe(source)}: {_reason(error)}") from error


def _read(source: Any) -> Image.Image:
    if isinstance(source, Mapping):
        source = source["path"] if source.get("bytes") is None else source["bytes"]
    if isinstance(source, Image.Image):
        return to_rgb(source)
    if isinstance(source, np.ndarray | Tensor):
        return to_rgb(_from_array(source))
    if isinstance(source, bytes | bytearray):
        source = BytesIO(source)
    elif not isinstance(source, str | os.PathLike):
        raise TypeError("give a PIL image, a path, bytes, an array or a tensor")
    with Image.open(source) as image:
        return to_rgb(image)


def _from_array(source: np.ndarray | Tensor) -> Image.Image:
    channels = (1, 3, 4)
    ends = (-1, 0) if isinstance(source, np.ndarray) else (0, -1)
    pixels = torch.as_tensor(source).detach().cpu()
    if pixels.ndim == 3:
        end = next((end for end in ends if pixels.shape[end] in channels), None)
        if end is None:
            raise ValueError("one end of its shape must be 1, 3 or 4 channels")
        pixels = pixels.movedim(end, -1)
    elif pixels.ndim != 2:
        raise ValueError("it must have two or three dimensions")
    pixels = _to_uint8(pixels)
    return Image.fromarray(
        (pixels.squeeze(-1) if pixels.shape[-1] == 1 and pixels.ndim == 3 else pixels).numpy()
    )


def _to_uint8(pixels: Tensor) -> Tensor:
    if pixels.is_floating_point():
        low, high = pixels.aminmax()
        if not (low >= -0.001 and high <= 1.001):
            raise ValueError(f"floats must lie in 0…1, but go from {low:g} to {high:g}; rescale them")
        return (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8)
    if pixels.dtype != torch.uint8:
        raise ValueError(f"numbers must be uint8 or floats in 0…1, but are {pixels.dtype}")
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


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image of a format that Pillow reads"
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


@dataclass
class ImageSettings:
    """How a photo becomes pixels; names and meanings are those of timm's data configs.

    Args:
        height, width: H and W of the tensors.
        mean, std: per channel, for values in 0…1.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos", always antialiased.
        crop_pct: share of each side that is kept.
        crop_mode: "squash" (stretch to shape), "center" (cut the longer side) or "border" (pad the shorter side).
            With `crop_pct=1.0`, "squash" and "border" keep the whole photo.

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
        if self.crop_mode not in CROPS:
            raise ValueError(f"`crop_mode` must be one of {', '.join(CROPS)}, but is {self.crop_mode!r}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"`interpolation` must be one of {', '.join(INTERPOLATIONS)}, but is {self.interpolation!r}"
            )
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"`crop_pct` must lie in 0…1, 0 excluded, but is {self.crop_pct}; 1.0 keeps all")

    @classmethod
    def for_encoder(cls, image_encoder: Mapping[str, Any]) -> "ImageSettings":
        """Take the data config of a timm backbone by name, without building it.

        Args:
            image_encoder: as in `CaptionerConfig`: `name`, `image_size` (one number or height and width; timm's size
                where missing) and optionally `mean`, `std`, `interpolation`, `crop_pct`, `crop_mode`.

        timm's own crop cuts the borders off, which captions speak about; so the whole photo is kept unless asked.

        Raises:
            ValueError: a name that timm does not know.
        """
        data = _timm_data_config(image_encoder["name"])
        size = image_encoder.get("image_size") or data["input_size"][1:]
        height, width = (size, size) if isinstance(size, int) else size
        own = {key: image_encoder[key] for key in ("crop_pct", "crop_mode") if key in image_encoder}
        look = {key: image_encoder.get(key, data[key]) for key in ("mean", "std", "interpolation")}
        return cls(height, width, **look, **own)

    def fit(self, image: Image.Image) -> Tensor:
        """RGB image to uint8 (3, H, W): resized and cropped, which is all that the encoder sees of it."""
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return CROPS[self.crop_mode](pixels, self)

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 (…, 3, H, W) to float32 (…, 3, H, W)."""
        mean, std = (255 * torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (pixels.float() - mean) / std


def _timm_data_config(name: str) -> dict[str, Any]:
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg, is_model

    if not is_model(name):
        raise ValueError(f"timm knows no model {name!r}; timm.list_models() lists them")
    cfg = get_pretrained_cfg(name)
    return resolve_data_config({}, pretrained_cfg=cfg.to_dict() if cfg else {})


def _resize(pixels: Tensor, size: Sequence[int], settings: ImageSettings) -> Tensor:
    return functional.resize(pixels, list(size), InterpolationMode(settings.interpolation), antialias=True)


def _scale(settings: ImageSettings) -> tuple[int, int]:
    """Height and width before the crop."""
    return math.floor(settings.height / settings.crop_pct), math.floor(settings.width / settings.crop_pct)


def _keep_ratio(pixels: Tensor, settings: ImageSettings, choose: Callable, to_int: Callable) -> Tensor:
    sides = pixels.shape[-2:]
    factor = choose(Fraction(target, side) for target, side in zip(_scale(settings), sides, strict=True))
    return _resize(pixels, [max(1, to_int(side * factor)) for side in sides], settings)


def _squash(pixels: Tensor, settings: ImageSettings) -> Tensor:
    pixels = _resize(pixels, _scale(settings), settings)
    return functional.center_crop(pixels, [settings.height, settings.width])


def _center(pixels: Tensor, settings: ImageSettings) -> Tensor:
    pixels = _keep_ratio(pixels, settings, max, math.floor)
    return functional.center_crop(pixels, [settings.height, settings.width])


def _border(pixels: Tensor, settings: ImageSettings) -> Tensor:
    pixels = _keep_ratio(pixels, settings, min, round)
    rows, columns = (
        max(0, t - s) for t, s in zip((settings.height, settings.width), pixels.shape[-2:], strict=True)
    )
    sides = [columns // 2, rows // 2, (columns + 1) // 2, (rows + 1) // 2]
    pixels = functional.pad(pixels, sides, fill=[round(255 * value) for value in settings.mean])
    return functional.center_crop(pixels, [settings.height, settings.width])


CROPS = {"squash": _squash, "center": _center, "border": _border}
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


class CaptionerProcessor(PushToHubMixin):
    """Images, contexts and captions to the tensors of `Captioner.forward`, and ids back to text.

    Args:
        image_settings: None for a captioner that only reads.
        tokenizer: of the captions. Its own special tokens are never added to captions: one start token and one EOS are.
        context_tokenizer: of the contexts, which get the special tokens it adds itself; None: `tokenizer`.
        max_caption_length: T at most, start token or EOS included.
        max_context_length: L at most, special tokens included.
        start_token_id, eos_token_id, pad_token_id: None: the tokenizer's bos, cls or eos; eos or sep; pad or eos.

    Raises:
        ValueError: a tokenizer without an end token.
    """

    def __init__(
        self,
        image_settings: ImageSettings | None,
        tokenizer: PreTrainedTokenizerBase,
        context_tokenizer: PreTrainedTokenizerBase | None = None,
        max_caption_length: int = 40,
        max_context_length: int = 64,
        start_token_id: int | None = None,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
    ) -> None:
        self.image_settings = image_settings
        self.tokenizer = tokenizer
        self.context_tokenizer = context_tokenizer
        self.max_caption_length = max_caption_length
        self.max_context_length = max_context_length
        self.eos_token_id = _first(eos_token_id, tokenizer.eos_token_id, tokenizer.sep_token_id)
        if self.eos_token_id is None:
            raise ValueError(
                "the caption tokenizer has neither an eos nor a sep token; set `tokenizer.eos_token`"
            )
        self.start_token_id = _first(
            start_token_id, tokenizer.bos_token_id, tokenizer.cls_token_id, self.eos_token_id
        )
        self.pad_token_id = _first(pad_token_id, tokenizer.pad_token_id, self.eos_token_id)

    def __call__(
        self,
        images: Any = None,
        context: str | Sequence[str | None] | None = None,
        captions: str | Sequence[str] | Sequence[Sequence[str]] | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Make a batch; what is not given has no key.

        Args:
            images: one or B of what `open_image` reads; None in a list is an absent image.
            context: one or B texts; None in a list, or blank text, is an absent context.
            captions: one, B, or B lists of G captions each.

        Returns:
            `pixel_values` (B, 3, H, W) float32, zero where absent; `image_mask` (B,) bool, only if one is absent;
            `context_input_ids`, `context_attention_mask` (B, L), the mask False throughout where absent;
            `decoder_input_ids`, `decoder_attention_mask`, `labels` (N, T). Masks are bool, True where real.

        Raises:
            ImageError: an image that cannot be read.
            ValueError: nothing given, batch sizes that differ, or an unequal number of captions per image.
        """
        given = {"images": images, "context": context, "captions": captions}
        given = {name: _as_list(value) for name, value in given.items() if value is not None}
        counts = {name: len(values) for name, values in given.items()}
        if len(set(counts.values())) != 1:
            found = ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"
            raise ValueError(
                f"give images, context or captions, and as many of each, but there are {found}; "
                "several captions of one image go in a list of their own"
            )
        makers = {"images": self._images, "context": self._contexts, "captions": self._captions}
        tensors = {
            key: value for name, values in given.items() for key, value in makers[name](values).items()
        }
        return BatchFeature(tensors, tensor_type=return_tensors)

    def _images(self, images: list[Any]) -> dict[str, Tensor]:
        mask = torch.tensor([image is not None for image in images], dtype=torch.bool)
        settings = self.image_settings
        if settings is None:
            if mask.any():
                raise ValueError(
                    "this processor has no `image_settings`, so it takes no images; leave them out"
                )
            return {}
        pixels = torch.zeros(len(images), 3, settings.height, settings.width)
        if mask.any():
            fitted = [settings.fit(open_image(image)) for image in images if image is not None]
            pixels[mask] = settings.normalize(torch.stack(fitted))
        return {"pixel_values": pixels} if mask.all() else {"pixel_values": pixels, "image_mask": mask}

    def _contexts(self, contexts: list[str | None]) -> dict[str, Tensor]:
        tokenizer = self.context_tokenizer or self.tokenizer
        rows = [self._context_ids(tokenizer, text) if text and text.strip() else [] for text in contexts]
        ids, mask = _pad(rows, _first(tokenizer.pad_token_id, tokenizer.eos_token_id, 0))
        return {"context_input_ids": ids, "context_attention_mask": mask}

    def _context_ids(self, tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
        """One context with its special tokens; text is cut, the special tokens at the end stay."""
        encoded = tokenizer(text, return_special_tokens_mask=True, verbose=False)
        ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
        closing = next((i for i, flag in enumerate(reversed(special)) if not flag), 0)
        excess = max(0, len(ids) - self.max_context_length)
        end = len(ids) - closing
        return ids[: end - excess] + ids[end:]

    def _captions(self, captions: list[str | Sequence[str]]) -> dict[str, Tensor]:
        groups = [[row] if isinstance(row, str) else list(row) for row in captions]
        sizes = [len(group) for group in groups]
        if len(set(sizes)) > 1 or 0 in sizes:
            raise ValueError(
                f"every image must have the same number of captions, at least one, but they have {sizes}"
            )
        texts = [text for group in groups for text in group]
        rows = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
        rows = [row[: self.max_caption_length - 1] for row in rows]
        inputs, mask = _pad([[self.start_token_id, *row] for row in rows], self.pad_token_id)
        labels, _ = _pad([[*row, self.eos_token_id] for row in rows], IGNORED_LABEL)
        return {"decoder_input_ids": inputs, "decoder_attention_mask": mask, "labels": labels}

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Ids (T,) to text: up to the first EOS after the start token, without special tokens and outer blanks."""
        row = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        row = row[1:] if row and row[0] == self.start_token_id else row
        row = row[: row.index(self.eos_token_id)] if self.eos_token_id in row else row
        row = [token for token in row if token != IGNORED_LABEL]
        return self.tokenizer.decode(row, skip_special_tokens=True).strip()

    def batch_decode(self, ids: Sequence[Sequence[int]] | Tensor) -> list[str]:
        """Ids (N, T) to N texts, each as `decode` gives it."""
        return [self.decode(row) for row in ids]

    def save_pretrained(self, directory: str | os.PathLike, **kwargs: Any) -> None:
        """Write the settings, the caption tokenizer and, in a folder of its own, the context tokenizer.

        `kwargs` are those that `push_to_hub` gives to models; none of them matters here.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(directory)
        if self.context_tokenizer is not None:
            self.context_tokenizer.save_pretrained(directory / CONTEXT_FOLDER)
        _write(directory / PROCESSOR_FILE, json.dumps(self.to_dict(), indent=2) + "\n")

    def to_dict(self) -> dict[str, Any]:
        """Everything but the tokenizers, as it is written to `processor_config.json`."""
        return {
            "processor_class": type(self).__name__,
            "image_settings": asdict(self.image_settings) if self.image_settings else None,
            "context_tokenizer": CONTEXT_FOLDER if self.context_tokenizer is not None else None,
            "max_caption_length": self.max_caption_length,
            "max_context_length": self.max_context_length,
            "start_token_id": self.start_token_id,
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.pad_token_id,
        }

    @classmethod
    def from_pretrained(
        cls, directory_or_hub_id: str | os.PathLike, **hub_kwargs: Any
    ) -> "CaptionerProcessor":
        """Read a processor back from a directory or from the Hub.

        Args:
            directory_or_hub_id: where `save_pretrained` or `push_to_hub` wrote.
            hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`, … as in transformers.

        Raises:
            OSError: no such directory or repository, or none with a `processor_config.json`.
            ValueError: a `processor_config.json` that another class wrote.
        """
        name = str(directory_or_hub_id)
        state = _read_state(name, hub_kwargs)
        if state.pop("processor_class", None) != cls.__name__:
            raise ValueError(
                f"{PROCESSOR_FILE} in {name} was not written by {cls.__name__}; try `captioner.load`"
            )
        # With a config given, a model's config.json in the same place is not consulted.
        load = {**hub_kwargs, "config": PreTrainedConfig()}
        tokenizer = AutoTokenizer.from_pretrained(name, **load)
        folder = state.pop("context_tokenizer")
        if folder is not None:
            load["subfolder"] = os.path.join(load.get("subfolder", ""), folder)
            folder = AutoTokenizer.from_pretrained(name, **load)
        settings = state.pop("image_settings")
        return cls(ImageSettings(**settings) if settings else None, tokenizer, folder, **state)

    def check_model(self, config: CaptionerConfig) -> None:
        """Make sure that a model of this shape can be fed by this processor.

        Raises:
            ValueError: everything that does not fit, and what to change.
        """
        problems = [
            *self._token_problems(config),
            *self._image_problems(config),
            *self._context_problems(config),
        ]
        if problems:
            raise ValueError(f"the processor does not fit the model: {'; '.join(problems)}")

    def _token_problems(self, config: CaptionerConfig) -> Iterable[str]:
        ids = {"eos": self.eos_token_id, "pad": self.pad_token_id, "start": self.start_token_id}
        vocabulary = 1 + max(*ids.values(), *self.tokenizer.get_vocab().values())
        if vocabulary > config.decoder.vocab_size:
            yield f"set `decoder.vocab_size` to at least {vocabulary}, it is {config.decoder.vocab_size}"
        if self.max_caption_length > config.decoder.max_positions:
            yield (
                f"set `max_caption_length` to at most `decoder.max_positions` = {config.decoder.max_positions}, "
                f"it is {self.max_caption_length}"
            )
        keys = {"eos": "eos_token_id", "pad": "pad_token_id", "start": "decoder_start_token_id"}
        for role, key in keys.items():
            model = getattr(config, key)
            allowed = model if isinstance(model, list) else [model]
            if ids[role] not in allowed and not (role == "pad" and model is None):
                yield f"set `{key}` of the config to {ids[role]} as in the processor, it is {model}"

    def _image_problems(self, config: CaptionerConfig) -> Iterable[str]:
        settings, encoder = self.image_settings, config.image_encoder
        if settings is None and encoder is not None:
            yield "the model has an image encoder: give `image_settings`, such as `ImageSettings.for_encoder(…)`"
        elif settings is not None and encoder is None:
            yield "the model has no image encoder: set `image_settings` to None"
        elif settings is not None and encoder.get("image_size") and not encoder.get("dynamic_img_size"):
            size = encoder["image_size"]
            size = (size, size) if isinstance(size, int) else tuple(size)
            if size != (settings.height, settings.width):
                yield (
                    f"set height and width of `image_settings` to {size[0]} and {size[1]} as in "
                    f"`image_encoder.image_size`, they are {settings.height} and {settings.width}"
                )

    def _context_problems(self, config: CaptionerConfig) -> Iterable[str]:
        encoder = config.context_encoder
        if encoder is None:
            return
        vocabulary = 1 + max((self.context_tokenizer or self.tokenizer).get_vocab().values())
        if vocabulary > encoder.vocab_size:
            yield f"set `context_encoder.vocab_size` to at least {vocabulary}, it is {encoder.vocab_size}"
        positions = getattr(encoder, "max_position_embeddings", None)
        if positions is not None and self.max_context_length > positions:
            yield (
                f"set `max_context_length` to at most `context_encoder.max_position_embeddings` = {positions}, "
                f"it is {self.max_context_length}"
            )


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def _as_list(value: Any) -> list[Any]:
    """A batch as a list; what is a single item becomes a list of one."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return list(value)
    return list(value) if getattr(value, "ndim", 0) == 4 else [value]


def _pad(rows: list[list[int]], filler: int) -> tuple[Tensor, Tensor]:
    """Rows of ids to ids (R, T) and mask (R, T), T at least 1; the mask knows lengths, not ids."""
    width = max([1, *map(len, rows)])
    ids = torch.tensor([row + [filler] * (width - len(row)) for row in rows], dtype=torch.long)
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
    return ids.view(len(rows), width), torch.arange(width) < lengths[:, None]


def _read_state(name: str, hub_kwargs: dict[str, Any]) -> dict[str, Any]:
    folder = Path(name, hub_kwargs.get("subfolder", ""))
    if Path(name).is_dir() and not (folder / PROCESSOR_FILE).is_file():
        raise FileNotFoundError(
            f"{folder} has no {PROCESSOR_FILE}; give a directory that `CaptionerProcessor.save_pretrained` wrote"
        )
    return json.loads(Path(cached_file(name, PROCESSOR_FILE, **hub_kwargs)).read_text(encoding="utf-8"))


def _write(path: Path, text: str) -> None:
    """Write to a temporary name first, so that a file under its own name is always whole."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
        file.write(text)
    os.replace(file.name, path)


def train_tokenizer(
    texts: Iterable[str],
    kind: str = "bpe",
    vocab_size: int = 8000,
    min_frequency: int = 2,
    lowercase: bool = True,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on captions and contexts; `<pad>`, `<bos>`, `<eos>`, `<unk>` are 0 to 3, none added by itself.

    Args:
        texts: read once.
        kind: a key of `KINDS`.
        vocab_size: tokens at most, special ones included.
        min_frequency: occurrences from which a word or a merge counts.
        lowercase: fold case; Unicode is brought to NFC in any case.

    Raises:
        ValueError: an unknown kind, or a vocabulary too small for it.
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}, but is {kind!r}")
    tokenizer, trainer = KINDS[kind](vocab_size, min_frequency)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), *([normalizers.Lowercase(), normalizers.NFC()] if lowercase else [])]
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)


def _byte_level_bpe(vocab_size: int, min_frequency: int) -> tuple[Tokenizer, Any]:
    """Merges of bytes: spells any text."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _need(vocab_size, len(SPECIAL_TOKENS) + len(alphabet))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        initial_alphabet=alphabet,
        special_tokens=list(SPECIAL_TOKENS.values()),
        show_progress=False,
    )


def _words(vocab_size: int, min_frequency: int) -> tuple[Tokenizer, Any]:
    """Whole words and punctuation marks; all others are `<unk>`. Decoded with single spaces."""
    _need(vocab_size, len(SPECIAL_TOKENS) + 1)
    tokenizer = Tokenizer(models.WordLevel(unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer, trainers.WordLevelTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS.values()),
        show_progress=False,
    )


def _need(vocab_size: int, least: int) -> None:
    if vocab_size < least:
        raise ValueError(
            f"`vocab_size` must be at least {least} for this kind of tokenizer, but is {vocab_size}"
        )


KINDS = {"bpe": _byte_level_bpe, "word": _words}
