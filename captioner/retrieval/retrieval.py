"""Context that nobody typed: the captions of the images in a caption store that look most like each image.

An image's own captions never come back: neither those under its id nor those of an image that is nearly the same.
Knows nothing about files or training.
"""

from collections.abc import Sequence
from os.path import basename
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import Dataset

from ..base import NEAR_DUPLICATE, DataSettings, progress
from ..data import Sample, Split
from ..model import Captioner
from .caption_store import CaptionStore, StoreError
from .store_encoder import StoreEncoder

SPARE = 8  # images that are looked for beyond those wanted, since some may be the image itself
MOST = 2048  # that are looked for at all
SENTENCE_END = " . "  # texts of a context
RETRIEVAL_BATCH = 64  # images that are encoded at a time


class Retriever:
    """Captions of a store for images.

    Args:
        directory: a caption store.
        neighbours: images whose captions are taken, one of each.
        near_duplicate: the cosine from which an image counts as the same.
        device: of the encoder.

    Raises:
        StoreError: no store, a store that does not fit its encoder, or FAISS missing.
    """

    def __init__(
        self, directory: str | Path, neighbours: int, near_duplicate: float = NEAR_DUPLICATE, device: Any = "cpu"
    ):
        self.store, self.neighbours, self.near_duplicate = CaptionStore(directory), neighbours, near_duplicate
        self.encoder = StoreEncoder.of_store(self.store.directory, self.store.facts)
        self.encoder.encoder.to(device)

    def __call__(self, pixels: Tensor, ids: Sequence[str]) -> list[list[str]]:
        """uint8 (B, 3, H, W), as the encoder's settings make them, and ids → captions for each of B images."""
        return self.captions(self.encoder(pixels), ids)

    def captions(self, features: np.ndarray, ids: Sequence[str]) -> list[list[str]]:
        """Features (B, D) and ids → the first caption of each neighbour, nearest first, for each of B images."""
        found = neighbours(self.store, features, ids, self.neighbours, self.near_duplicate)
        return [[self.store.captions_of(image)[0] for image in own] for own in found]


def neighbours(
    store: CaptionStore, features: np.ndarray, ids: Sequence[str], count: int, near_duplicate: float
) -> list[list[int]]:
    """The places of the nearest images in a store, nearest first.

    Args:
        features: (B, D).
        ids: of the B images, often paths; what a store has under the same last part is passed over.
        count: at most, per image.
        near_duplicate: images with this cosine or more are passed over.
    """
    names, wanted, most = [_file_name(name) for name in ids], count + SPARE, min(len(store), MOST)
    while True:
        found = zip(names, *store.search(features, wanted), strict=True)
        others = [
            [
                place
                for cosine, place in zip(cosines, places.tolist(), strict=True)
                if place >= 0 and cosine < near_duplicate and _file_name(store.ids[place]) != name
            ]
            for name, cosines, places in found
        ]
        if wanted >= most or all(len(own) >= count for own in others):
            return [own[:count] for own in others]
        wanted *= 4


def _file_name(name: str) -> str:
    """The last part of an id, in one Unicode form."""
    return normalize("NFC", basename(name))


def join(typed: str | None, captions: Sequence[str]) -> str | None:
    """One context: what was typed, then the captions, as sentences; without captions, what was typed as it is."""
    if not captions:
        return typed
    texts = [text.strip().rstrip(" .") for text in (typed or "", *captions)]
    return SENTENCE_END.join(text for text in texts if text) or None


class Retrieved(Dataset):
    """A split whose contexts go on with retrieved captions.

    Args:
        samples: a split in the data schema.
        captions: by row; a row that is missing keeps its context.
    """

    def __init__(self, samples: Split, captions: dict[int, list[str]]):
        self.samples, self.captions, self.texts = samples, captions, samples.texts

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        return {**sample, "context": join(sample.get("context"), self.captions.get(index, []))}


def retrieved(
    samples: Split, data: DataSettings, model: Captioner, workers: int, accelerator: Accelerator | None = None
) -> Split:
    """The same split, with retrieved captions behind its contexts if `data.retrieve` names a store.

    Args:
        samples: a split in the data schema.
        model: the captioner that is to read them.
        workers: processes that decode images.
        accelerator: of the processes that share the work; None: each does all of it.

    Raises:
        StoreError: as from `Retriever`, or a captioner that does not read.
    """
    if data.retrieve is None:
        return samples
    check_has_context(model)
    device, rank, count = "cpu", 0, 1
    if accelerator is not None:
        device, rank, count = accelerator.device, accelerator.process_index, accelerator.num_processes
    retriever = Retriever(data.retrieve, data.neighbours, data.near_duplicate, device)
    own, rows = [], range(rank, len(samples), count)
    batches = retriever.encoder.encode(samples, rows, RETRIEVAL_BATCH, workers)
    for features, encoded in progress(batches, "retrieving", -(-len(rows) // RETRIEVAL_BATCH)):
        captions = retriever.captions(features, [sample["id"] for sample in encoded])
        own += zip([sample["index"] for sample in encoded], captions, strict=True)
    return Retrieved(samples, dict(own if count == 1 else gather_object(own)))


def check_has_context(model: Captioner) -> None:
    """Make sure that a captioner can read what is retrieved for it.

    Raises:
        StoreError: it has no context encoder.
    """
    if "context" not in model.config.modalities:
        raise StoreError(
            "captions are to be retrieved, but this captioner has no context encoder; set `model.context_encoder`, "
            "or add one with `captioner convert … --add-context ENCODER`"
        )
