"""Every dataset source to one schema, and samples of that schema to the tensors of `Captioner.forward`.

A sample is a dict of `image` (a path, `{"bytes", "path"}`, a list of those or None), `captions` (list of str),
`context` (str or None), `id` (str), and each further modality by its name (an array, a path or None). Images stay
encoded until a worker collates them. Knows nothing about models or scores.
"""

import logging
import os
import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, List, ReadInstruction, Value
from PIL import Image as Pillow
from torch import Tensor

from .images import ImageError, ImageSettings, open_image
from .processor import CaptionerProcessor
from .settings import DataSettings
from .several_images import each, stack
from .sources import SOURCES, DataError, Rows
from .vqa import read_vqa
from .wording import one_line, some

logger = logging.getLogger(__name__)

READERS = SOURCES | {"vqa": read_vqa}

TEXTS = Features({"captions": List(Value("string")), "context": Value("string"), "id": Value("string")})


class Samples:
    """One split: map-style and picklable, its images still encoded.

    Args:
        images: the column `image`.
        texts: the columns `captions`, `context` and `id`; iterate it to read texts without images.
    """

    def __init__(self, images: Dataset, texts: Dataset):
        self.images, self.texts = images, texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.images[index], **self.texts[index]}

    def select(self, rows: Sequence[int]) -> "Samples":
        """The samples at `rows`, in that order."""
        return Samples(self.images.select(rows), self.texts.select(rows))


def load_split(settings: DataSettings, split: str) -> Samples:
    """Read one split of any source.

    Args:
        settings: `source`, `limit` and the keys that the reader in `READERS` takes.
        split: a name, or a slice such as "train[:95%]", which never parts the captions of an image. The names
            in `SAME_SPLIT` stand for each other.

    Raises:
        DataError: anything missing, empty or malformed, in one line with the remedy.
    """
    if settings.source == "scenes":
        from .scene_tasks import load_scenes

        return load_scenes(settings, split)
    name, where = split.partition("[")[0], f"split {split!r} of {settings.path}"
    samples = _group(READERS[settings.source](settings, name), where)
    rows = _slice(split, name, len(samples))[: settings.limit]
    if not rows:
        raise DataError(f"{where} is empty: the slice takes none of {len(samples)} samples; widen it")
    return samples if len(rows) == len(samples) else samples.select(rows)


def _slice(split: str, name: str, count: int) -> Sequence[int]:
    if split == name:
        return range(count)
    try:
        parts = ReadInstruction.from_spec(split).to_absolute({name: count})
    except (ValueError, AssertionError) as error:
        raise DataError(f"{split!r} is not a slice of a split; write {name}[:95%] or {name}[:1000]") from error
    return [row for part in parts for row in range(part.from_, part.to)]


def _group(rows: Rows, where: str) -> Samples:
    """One sample per image and context, its captions in the order of the rows."""
    nothing = [None] * len(rows.keys)
    contexts = [_context(value) for value in rows.cells.contexts or nothing]
    ids = [None if value in (None, "") else str(value) for value in rows.cells.ids or nothing]
    groups = defaultdict(list)
    for row, key in enumerate(rows.keys):
        groups[key if ids[row] is None else ids[row], contexts[row]].append(row)
    if not groups:
        raise DataError(f"{where} is empty; give it at least one image with a caption")
    firsts = [group[0] for group in groups.values()]
    captions = [[text for row in group for text in _texts(rows.cells.captions[row])] for group in groups.values()]
    names = _unique([ids[row] or rows.names[row] for row in firsts])
    texts = {"captions": captions, "context": [contexts[row] for row in firsts], "id": names}
    _check(texts, rows.files, where)
    images = rows.images if len(firsts) == len(rows.images) else rows.images.select(firsts)
    return Samples(images, Dataset.from_dict(texts, features=TEXTS))


def _check(texts: dict[str, list], files: list[str | None], where: str) -> None:
    """Refuse samples without a caption, and image files that are not there."""
    without = [name for name, captions in zip(texts["id"], texts["captions"], strict=True) if not captions]
    missing = _missing(dict.fromkeys(file for file in files if file is not None))
    faults = {
        "samples without a caption": (without, "give each at least one, or remove it"),
        "image files missing": (missing, "put them there, set `data.path`, or remove their rows"),
    }
    for what, (names, remedy) in faults.items():
        if names:
            raise DataError(f"{where} has {len(names)} {what}: {some(names, 3)}; {remedy}")


def _texts(value: Any) -> list[str]:
    """The captions in one cell, without blank ones."""
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(texts, list) or not all(isinstance(text, str | None) for text in texts):
        raise DataError(f"captions must be text or lists of text, but one is {value!r}; set `data.caption_column`")
    return [text.strip() for text in texts if text and text.strip()]


def _context(value: Any) -> str | None:
    text = ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
    return text.strip() or None


def _unique(names: list[str]) -> list[str]:
    """The names, or where two are equal all with their place."""
    return names if len(set(names)) == len(names) else [f"{name}#{place}" for place, name in enumerate(names)]


def _missing(files: Iterable[str]) -> list[str]:
    """The files that are not there; every folder is listed once and no file is opened."""
    listed: dict[str, set[str]] = {}
    missing = []
    for file in files:
        folder, name = os.path.split(file)
        if folder not in listed:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in listed[folder]:
            missing.append(file)
    return missing


class CaptionDataset(torch.utils.data.Dataset):
    """Samples with their `index` and the `epoch`, which workers see change though they were started before.

    Call `set_epoch` before each pass over the loader; the number lies in shared memory.
    """

    def __init__(self, samples: Any):
        self.samples = samples
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose which captions and augmentations the next pass draws."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.samples[index], "index": index, "epoch": int(self._epoch)}


class Collator:
    """Samples of a `CaptionDataset` to the tensors of `Captioner.forward`; decodes the images.

    What it draws is a function of (seed, epoch, index) alone: not of workers, batches or restarts. A sample
    whose image cannot be read is left out and logged, once per id and worker.

    Args:
        processor: makes the tensors.
        captions_per_image: G. Over successive epochs every caption of an image is drawn; an epoch repeats one
            only where the image has fewer than G. None, for evaluation: no caption tensors, but `samples`.
        augment: options of `timm.data.create_transform`; empty: the processor's plain transform. Crops, flips
            and colour changes are off unless asked for, since captions speak of borders, sides and colours.
        seed: of captions and augmentations.
        modalities: `config.modalities` of the captioner; None: those that a sample of the batch has.

    Raises:
        DataError: an option of `augment` that timm refuses; when called, a batch without any readable image.
    """

    def __init__(
        self,
        processor: CaptionerProcessor,
        captions_per_image: int | None = 1,
        augment: dict[str, Any] | None = None,
        seed: int = 0,
        modalities: Collection[str] | None = None,
    ):
        self.processor, self.captions_per_image, self.seed = processor, captions_per_image, seed
        self.modalities = modalities
        self.transform = _augmentation(augment, processor.image_settings) if augment else None
        self._logged: set[str] = set()

    @classmethod
    def for_evaluation(cls, processor: CaptionerProcessor, modalities: Collection[str] | None = None) -> "Collator":
        """Plain images and contexts, and `samples`: B dicts of `id`, `captions`, `context` and `index`."""
        return cls(processor, captions_per_image=None, modalities=modalities)

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """B samples → `pixel_values` (B, 3, H, W), `context_input_ids` (B, L), `labels` (N, T), `NAME_values`, …"""
        given, batch = {}, {}
        if self._wants("image", samples):
            samples, images = self._open(samples)
            if self.transform is None:
                given["images"] = images
            else:
                batch = self._augmented(samples, images)
        for name in ("context", *self.processor.further):
            if self._wants(name, samples):
                given[name] = [sample.get(name) for sample in samples]
        if self.captions_per_image is None:
            heavy = ("image", *self.processor.further)
            batch["samples"] = [{k: v for k, v in sample.items() if k not in heavy} for sample in samples]
        else:
            given["captions"] = [self._draw(sample) for sample in samples]
        return {**batch, **self.processor(**given)} if given else batch

    def _wants(self, modality: str, samples: list[dict[str, Any]]) -> bool:
        if self.modalities is not None:
            return modality in self.modalities
        usable = modality != "image" or self.processor.image_settings is not None
        return usable and any(sample.get(modality) is not None for sample in samples)

    def _open(self, samples: list[dict[str, Any]]) -> tuple[list[dict], list[Any]]:
        """The samples whose images are readable or absent, and those images: one, None or a list of a sample."""
        kept, images = [], []
        for sample in samples:
            try:
                images.append(each(open_image, self.processor.cut_images(sample.get("image"))))
                kept.append(sample)
            except ImageError as error:
                self._log(sample["id"], error)
        if not kept:
            names = some(sample["id"] for sample in samples)
            raise DataError(f"none of the {len(samples)} images of a batch can be read ({names}); repair the files")
        return kept, images

    def _log(self, name: str, error: ImageError) -> None:
        if name not in self._logged:
            self._logged.add(name)
            logger.warning("sample %s left out (%d so far in this worker): %s", name, len(self._logged), error)

    def _augmented(self, samples: list[dict[str, Any]], images: list[Any]) -> dict[str, Tensor]:
        settings, made = self.processor.image_settings, []
        for sample, image in zip(samples, images, strict=True):
            with _seeded(self.seed, sample.get("epoch", 0), sample["index"]):
                made.append(each(self.transform, image))
        pixels, mask = stack(made, torch.zeros(3, settings.height, settings.width))
        return {"pixel_values": pixels} if mask.all() else {"pixel_values": pixels, "image_mask": mask}

    def _draw(self, sample: dict[str, Any]) -> list[str]:
        """G captions: the next ones in an order that is the image's own."""
        captions, count = sample["captions"], self.captions_per_image
        if not captions:
            raise DataError(f"sample {sample['id']} has no captions; remove it from the training split")
        order = random.Random(f"{self.seed} {sample['index']}").sample(captions, len(captions))
        start = sample.get("epoch", 0) * count
        return [order[(start + place) % len(order)] for place in range(count)]


def _augmentation(augment: dict[str, Any], settings: ImageSettings | None) -> Any:
    """timm's training transform, with the processor's size and colours; tried on a blank photo."""
    from timm.data import create_transform

    if settings is None:
        raise DataError("`data.augment` is set, but the processor has no `image_settings`; set it to {}")
    size = (3, settings.height, settings.width)
    whole = {"scale": (1.0, 1.0), "ratio": (0.01, 100.0)}
    crop = {} if {"scale", "ratio", "train_crop_mode"} & set(augment) else whole
    look = {"mean": settings.mean, "std": settings.std, "interpolation": settings.interpolation}
    options = {"hflip": 0.0, "color_jitter": None, **crop, **look, **augment}
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
