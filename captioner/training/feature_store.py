"""Features of a frozen image encoder on disk: every image encoded once, then read from a memory-mapped file.

A store belongs to one encoder and one split: it is refused where their fingerprint is another. An image that is
replaced under the same id is not noticed. Knows nothing about decoders.
"""

import hashlib
import json
import os
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Subset

from ..base import progress, say, whole
from ..cpu import wide_products
from ..data import UNREADABLE as UNREADABLE_IMAGE
from ..data import Bad, Batch, CaptionDataset, Collator, EvaluationCollator, Sample, Split
from ..model import Captioner, CaptionerProcessor

UNREADABLE, ABSENT, PRESENT = range(3)  # what an image is; the first is left out of training


class FeatureStoreError(ValueError):
    """A store that does not fit; the message says what would."""


class FeatureStore:
    """Features (S, D_image) of each sample of a split, read as they are needed.

    Args:
        directory: `features.npy` (samples, S, D_image), `images.npy` (samples,) and `store.json`.
        fingerprint: that the store must have.

    Raises:
        FeatureStoreError: another fingerprint.
    """

    def __init__(self, directory: Path, fingerprint: str):
        found = json.loads((directory / "store.json").read_text())["fingerprint"]
        if found != fingerprint:
            raise FeatureStoreError(
                f"the feature store {directory} was made by another image encoder or for other samples "
                f"({found[:12]}, not {fingerprint[:12]}); remove it, or set another `data.feature_store`"
            )
        self.directory = directory
        self.images = np.load(directory / "images.npy")
        self.features = np.load(directory / "features.npy", mmap_mode="r")

    def __getstate__(self) -> dict[str, Any]:
        return {"directory": self.directory, "images": self.images}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.features = np.load(self.directory / "features.npy", mmap_mode="r")


class StoredCollator:
    """A collator of texts, with the features of a store in the place of pixels.

    Args:
        collator: for the other modalities; it never opens an image.
    """

    def __init__(self, collator: Collator, store: FeatureStore):
        self.collator, self.store = collator, store

    def __call__(self, samples: list[Sample]) -> Batch:
        """B samples → what the collator makes, with `pixel_values` (B, S, D_image) and maybe `image_mask` (B,)."""
        states = self.store.images
        unreadable = [sample for sample in samples if states[sample["index"]] == UNREADABLE]
        for sample in unreadable:
            sample["bad"] = [Bad(UNREADABLE_IMAGE, sample["id"], "when the feature store was made")]
        batch = self.collator(samples)
        samples = [sample for sample in samples if states[sample["index"]] != UNREADABLE] or unreadable[:1]
        rows = [sample["index"] for sample in samples]
        mask = [states[sample["index"]] == PRESENT and sample.get("image") is not None for sample in samples]
        batch["pixel_values"] = torch.from_numpy(self.store.features[rows])
        return batch if all(mask) else batch | {"image_mask": torch.tensor(mask)}


def features_fingerprint(model: Captioner, processor: CaptionerProcessor, samples: Split) -> str:
    """Of an image encoder's configuration and weights, what is done to images before it, and the samples' ids."""
    known = len(samples.texts) == len(samples)
    ids = [row["id"] for row in samples.texts] if known else [len(samples), samples[0]["captions"]]
    facts = [model.config.image_encoder, asdict(processor.image_settings), ids]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(model.encoder.image.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def open_store(
    directory: Path,
    model: Captioner,
    processor: CaptionerProcessor,
    samples: Split,
    accelerator: Accelerator,
    batch_size: int,
    workers: int,
) -> FeatureStore:
    """The store in `directory`, made first if it is not there: each process encodes its share of the images.

    Raises:
        FeatureStoreError: the store belongs to another encoder or split.
        WriteError: the disk is full.
    """
    own = features_fingerprint(model, processor, samples)
    if not (directory / "store.json").exists():
        say(f"encoding {len(samples)} images once, into {directory}")
        main, beside = accelerator.is_main_process, directory.with_name(directory.name + ".new")
        with whole(directory) if main else nullcontext(beside) as fresh:
            if main:
                _reserve(fresh, len(samples), model, processor)
            accelerator.wait_for_everyone()
            mine = range(accelerator.process_index, len(samples), accelerator.num_processes)
            loader = DataLoader(
                Subset(CaptionDataset(samples), mine),
                batch_size=batch_size,
                num_workers=workers,
                collate_fn=EvaluationCollator(processor, ["image"]),
            )
            _encode(fresh, loader, model, accelerator.device)
            accelerator.wait_for_everyone()
            if main:
                (fresh / "store.json").write_text(json.dumps({"fingerprint": own}))
        accelerator.wait_for_everyone()
    model.encoder.image.expect_features(processor.image_settings.height, processor.image_settings.width)
    return FeatureStore(directory, own)


def _reserve(directory: Path, samples: int, model: Captioner, processor: CaptionerProcessor) -> None:
    """Files of the full size, whose space on the disk is taken now: a memory map cannot report a full disk."""
    size = processor.image_settings
    with torch.inference_mode():
        one = model.encoder.image.eval()(torch.zeros(1, 3, size.height, size.width))
    sizes = {"features.npy": ((samples, *one.shape[1:]), np.float32), "images.npy": ((samples,), np.uint8)}
    for name, (shape, kind) in sizes.items():
        array = np.lib.format.open_memmap(directory / name, "w+", kind, shape)
        if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
            with open(directory / name, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, array.offset + array.nbytes)


@torch.inference_mode()
def _encode(directory: Path, loader: DataLoader, model: Captioner, device: torch.device) -> None:
    encoder = model.encoder.image.to(device).eval()
    features = np.load(directory / "features.npy", mmap_mode="r+")
    images = np.load(directory / "images.npy", mmap_mode="r+")
    for batch in progress(loader, "encoding"):
        rows = np.array([sample["index"] for sample in batch["samples"]])
        present = batch.get("image_mask", torch.ones(len(rows), dtype=torch.bool))
        images[rows] = np.where(present.numpy(), PRESENT, ABSENT)
        if present.any():
            with wide_products(device):
                found = encoder(batch["pixel_values"][present].to(device))
            features[rows[present.numpy()]] = found.float().cpu().numpy()
    features.flush()
    images.flush()
