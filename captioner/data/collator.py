"""Every dataset source to one schema, and samples of that schema to the tensors of `Captioner.forward`.

A sample is a dict of `image` (a path, `{"bytes", "path"}`, a list of those or None), `captions` (list of str),
`context` (str or None), `id` (str), and each further modality by its name (an array, a path or None). Images stay
encoded until a worker collates them. Knows nothing about models or scores.
"""

import random
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor

from ..base import DataSettings, one_line
from ..model import IGNORED_LABEL, PLAIN_TEXT, CaptionerProcessor, ImageError, ImageSettings, each, open_image, stack
from .faults import CUT, MISSING, UNREADABLE, Bad
from .grouping import Samples, empty, samples_of
from .sources import SOURCES, DataError
from .vqa import read_vqa

READERS = SOURCES | {"vqa": read_vqa}


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
        from ..scenes import load_scenes

        return load_scenes(settings, split)
    where = f"split {split!r} of {settings.path}"
    if settings.streaming:
        from .streaming import read_once

        return samples_of(read_once(settings, split), split, where, None, settings.max_bad_share, whole=True)
    rows = READERS[settings.source](settings, split.partition("[")[0])
    return samples_of(rows, split, where, settings.limit, settings.max_bad_share)


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
    whose image cannot be read or that has no caption to learn is left out, which `bad` of the batch says. A batch that
    would be empty keeps a blank sample without labels, so that no process waits for it.

    Args:
        processor: makes the tensors.
        captions_per_image: G. Over successive epochs every caption of an image is drawn; an epoch repeats one
            only where the image has fewer than G. None, for evaluation: no caption tensors, but `samples`.
        augment: options of `timm.data.create_transform`; empty: the processor's plain transform. Crops, flips
            and colour changes are off unless asked for, since captions speak of borders, sides and colours.
        seed: of captions and augmentations.
        modalities: `config.modalities` of the captioner; None: those that a sample of the batch has.

    Raises:
        DataError: an option of `augment` that timm refuses.
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
        self.modalities, self.blanks = modalities, True
        self.transform = _augmentation(augment, processor.image_settings) if augment else None

    @classmethod
    def for_evaluation(cls, processor: CaptionerProcessor, modalities: Collection[str] | None = None) -> "Collator":
        """Plain images and contexts, and `samples`: B dicts of `id`, `captions`, `context` and `index`."""
        collator = cls(processor, captions_per_image=None, modalities=modalities)
        collator.blanks = False
        return collator

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """B samples → `pixel_values` (B, 3, H, W), `context_input_ids` (B, L), `labels` (N, T), `NAME_values`, …

        `bad`, only where there is something: a list of `Bad`.
        """
        bad, kept, images = [], [], None
        for sample in samples:
            faults = list(sample.pop("bad", ()))
            if self.captions_per_image is not None and not sample["captions"] and not faults:
                faults.append(empty(sample["id"], []))
            bad += faults
            if not any(fault.left_out for fault in faults):
                kept.append(sample)
        if self._wants("image", samples):
            kept, images, unreadable = self._open(kept)
            bad += unreadable
        batch = self._batch(kept, images) if kept else self._blank(samples)
        bad += batch.pop("bad", ())
        return batch | {"bad": list(dict.fromkeys(bad))} if bad else batch

    def _blank(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch of one sample without anything to see, read or learn; for evaluation, of no sample."""
        if not self.blanks:
            return {"samples": []}
        nothing = dict.fromkeys(("image", "context", *self.processor.further))
        batch = self._batch(
            [samples[0] | nothing | {"captions": [""]}], [None] if self._wants("image", samples) else None
        )
        if "labels" in batch:
            batch["labels"].fill_(IGNORED_LABEL)
        return batch

    def _batch(self, samples: list[dict[str, Any]], images: list[Any] | None) -> dict[str, Any]:
        given, batch = {}, {}
        if images is not None:
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
        batch |= self.processor(**given) if given else {}
        return batch | {"bad": self._cut(samples, given["captions"], batch)} if "captions" in given else batch

    def _wants(self, modality: str, samples: list[dict[str, Any]]) -> bool:
        if self.modalities is not None:
            return modality in self.modalities
        usable = modality != "image" or self.processor.image_settings is not None
        return usable and any(sample.get(modality) is not None for sample in samples)

    def _open(self, samples: list[dict[str, Any]]) -> tuple[list[dict], list[Any], list[Bad]]:
        """The samples whose images are readable or absent; those images, one, None or a list of each; the others."""
        kept, images, bad = [], [], []
        for sample in samples:
            try:
                images.append(each(open_image, self.processor.cut_images(sample.get("image"))))
                kept.append(sample)
            except ImageError as error:
                kind = MISSING if isinstance(error.__cause__, FileNotFoundError) else UNREADABLE
                bad.append(Bad(kind, sample["id"], str(error)))
        return kept, images, bad

    def _cut(self, samples: list[dict[str, Any]], captions: list[list[str]], batch: dict[str, Any]) -> Iterator[Bad]:
        """Captions that were cut; tokens are counted again only where a row is full."""
        most = self.processor.max_caption_length
        full = (batch["labels"] != IGNORED_LABEL).sum(1).view(len(samples), -1) >= most
        for row, place in full.nonzero().tolist():
            text = captions[row][place]
            tokens = len(self.processor.tokenizer(text, **PLAIN_TEXT)["input_ids"]) + 1
            if tokens > most:
                yield Bad(CUT, samples[row]["id"], f"{tokens} tokens of {most}: {text}", left_out=False)

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
