"""Features of a frozen image encoder on disk: every image encoded once, then read from a memory-mapped file.

A store belongs to one encoder and one split: it is refused where their fingerprint is another. An image that is
replaced under the same id is not noticed. Knows nothing about decoders.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Subset

from ..base import Processes, explaining, one_line, progress, say, unfinished_place, whole
from ..cpu import wide_products
from ..data import UNREADABLE as UNREADABLE_IMAGE
from ..data import Bad, Batch, CaptionDataset, Collator, EvaluationCollator, Sample, Split
from ..model import Captioner, CaptionerProcessor

STORE = "store.json"
UNREADABLE, ABSENT, PRESENT = range(3)  # what an image is; the first is left out of training


class FeatureStoreError(ValueError):
    """A store that does not fit; the message says what would."""


class FeatureStore:
    """Features (S, D_image) of each sample of a split, read as they are needed.

    Each process of the run that made it wrote a part with every n-th sample: `features.npy` (samples, S, D_image) and
    `images.npy` (samples,), or files of the part's number where there are several.

    Args:
        directory: of the parts and `store.json`.
        fingerprint: that the store must have.

    Raises:
        FeatureStoreError: no store, another fingerprint, or a part that is not there.
    """

    def __init__(self, directory: Path, fingerprint: str):
        found, self.parts = _facts(directory)
        if found != fingerprint:
            raise FeatureStoreError(
                f"the feature store {directory} was made by another image encoder or for other samples "
                f"({found[:12]}, not {fingerprint[:12]}); remove it, or set another `data.feature_store`"
            )
        self.directory = directory
        parts = [_open(directory, "images", part, self.parts) for part in range(self.parts)]
        self.images = np.empty(sum(map(len, parts)), np.uint8)
        for part, own in enumerate(parts):
            self.images[part :: self.parts] = own
        self.features = self._features()

    def _features(self) -> list[np.ndarray]:
        return [_open(self.directory, "features", part, self.parts) for part in range(self.parts)]

    def rows(self, places: Sequence[int]) -> np.ndarray:
        """The features (B, S, D_image) of B samples, by their places in the split."""
        return np.stack([self.features[place % self.parts][place // self.parts] for place in places])

    def __getstate__(self) -> dict[str, Any]:
        return {"directory": self.directory, "parts": self.parts, "images": self.images}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.features = self._features()


def _facts(directory: Path) -> tuple[str, int]:
    """The fingerprint of a store, and of how many parts it is."""
    try:
        facts = json.loads((directory / STORE).read_text())
        return str(facts["fingerprint"]), int(facts.get("parts", 1))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FeatureStoreError(
            f"{directory} is no feature store: {STORE} cannot be read ({one_line(error)}); set another "
            "`data.feature_store`"
        ) from error


def _file(name: str, part: int, parts: int) -> str:
    return f"{name}.npy" if parts == 1 else f"{name}-{part}-of-{parts}.npy"


def _open(directory: Path, name: str, part: int, parts: int) -> np.ndarray:
    try:
        return np.load(directory / _file(name, part, parts), mmap_mode="r")
    except (OSError, ValueError) as error:
        raise FeatureStoreError(
            f"the feature store {directory} cannot be read ({one_line(error)}); it must be whole, in a folder that all "
            "processes share: remove it, or set another `data.feature_store`"
        ) from error


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
        lost = {bad.id for bad in batch.get("bad", ()) if bad.left_out}
        samples = [sample for sample in samples if sample["id"] not in lost] or samples[:1]
        rows = [sample["index"] for sample in samples]
        mask = [states[sample["index"]] == PRESENT and sample.get("image") is not None for sample in samples]
        batch["pixel_values"] = torch.from_numpy(self.store.rows(rows))
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
    processes = Processes()
    if not processes.first((directory / STORE).exists()):
        say(f"encoding {len(samples)} images once, into {directory}")
        main = accelerator.is_main_process
        with whole(directory) if main else nullcontext(unfinished_place(directory)) as fresh:
            accelerator.wait_for_everyone()
            if not fresh.is_dir():
                raise FeatureStoreError(
                    f"process {processes.rank} does not see {fresh}, which the first one made; set a "
                    "`data.feature_store` that all processes share"
                )
            mine = range(accelerator.process_index, len(samples), accelerator.num_processes)
            loader = DataLoader(
                Subset(CaptionDataset(samples), mine),
                batch_size=batch_size,
                num_workers=workers,
                collate_fn=EvaluationCollator(processor, ["image"]),
            )
            part = _Part.reserved(fresh, len(mine), accelerator, model, processor)
            part.fill(loader, model, accelerator.device)
            accelerator.wait_for_everyone()
            if main:
                (fresh / STORE).write_text(json.dumps({"fingerprint": own, "parts": accelerator.num_processes}))
        accelerator.wait_for_everyone()
    model.encoder.image.expect_features(processor.image_settings.height, processor.image_settings.width)
    return FeatureStore(directory, own)


class _Part:
    """What one process writes of a store: no two write to one file, which a network disk may lose.

    Args:
        features: (samples, S, D_image), mapped.
        images: (samples,), mapped.
        parts: of the store.
    """

    def __init__(self, features: np.ndarray, images: np.ndarray, parts: int):
        self.features, self.images, self.parts = features, images, parts

    @classmethod
    def reserved(
        cls, directory: Path, samples: int, accelerator: Accelerator, model: Captioner, processor: CaptionerProcessor
    ) -> "_Part":
        """Files of the full size, whose space on the disk is taken now: a memory map cannot report a full disk."""
        size, parts = processor.image_settings, accelerator.num_processes
        with torch.inference_mode():
            one = model.encoder.image.eval()(torch.zeros(1, 3, size.height, size.width))
        sizes = {"features": ((samples, *one.shape[1:]), np.float32), "images": ((samples,), np.uint8)}
        arrays = []
        for name, (shape, kind) in sizes.items():
            file = directory / _file(name, accelerator.process_index, parts)
            with explaining(file):
                arrays.append(np.lib.format.open_memmap(file, "w+", kind, shape))
                if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
                    with file.open("r+b") as handle:
                        os.posix_fallocate(handle.fileno(), 0, arrays[-1].offset + arrays[-1].nbytes)
        return cls(*arrays, parts)

    @torch.inference_mode()
    def fill(self, loader: DataLoader, model: Captioner, device: torch.device) -> None:
        """Encode the images of a loader, each of which has its `index` in the split."""
        encoder = model.encoder.image.to(device).eval()
        for batch in progress(loader, "encoding"):
            rows = np.array([sample["index"] for sample in batch["samples"]], dtype=np.int64) // self.parts
            present = batch.get("image_mask", torch.ones(len(rows), dtype=torch.bool))
            self.images[rows] = np.where(present.numpy(), PRESENT, ABSENT)
            if present.any():
                with wide_products(device):
                    found = encoder(batch["pixel_values"][present].to(device))
                self.features[rows[present.numpy()]] = found.float().cpu().numpy()
        self.features.flush()
        self.images.flush()
