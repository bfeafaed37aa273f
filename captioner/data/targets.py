"""What a batch holds beside the inputs of the encoders: captions to learn, or the samples themselves.

Knows nothing about images.
"""

import random
from collections.abc import Collection, Iterator
from typing import Protocol

from torch import Tensor

from ..model import IGNORED_LABEL, PLAIN_TEXT, CaptionerProcessor
from .dataset import Batch, Sample
from .faults import CUT, Bad
from .groups import empty


class Targets(Protocol):
    """One part of every batch."""

    def faults(self, sample: Sample) -> list[Bad]:
        """What is wrong with a sample before its images are opened."""

    def __call__(self, samples: list[Sample]) -> tuple[Batch, list[Bad]]:
        """B samples → this part of their batch, and what is wrong with it though it is used."""

    def blank(self, sample: Sample) -> Batch:
        """This part for a sample from which nothing is learnt."""


class CaptionTargets:
    """G captions of each image, as tensors.

    Over successive epochs every caption of an image is drawn; an epoch repeats one only where the image has fewer
    than G. What is drawn is a function of (seed, epoch, index) alone.

    Args:
        processor: makes the tensors.
        captions_per_image: G.
        seed: of the order in which an image's captions come.
    """

    def __init__(self, processor: CaptionerProcessor, captions_per_image: int, seed: int = 0):
        self.processor, self.captions_per_image, self.seed = processor, captions_per_image, seed

    def faults(self, sample: Sample) -> list[Bad]:
        """As in `Targets`: without a caption there is nothing to learn."""
        noted = list(sample.pop("bad", ()))
        return noted if noted or sample["captions"] else [empty(sample["id"], [])]

    def __call__(self, samples: list[Sample]) -> tuple[Batch, list[Bad]]:
        """B samples → `decoder_input_ids`, `decoder_attention_mask`, `labels` (N, T), and captions that were cut."""
        captions = [self.draw(sample) for sample in samples]
        tensors = dict(self.processor(captions=captions))
        return tensors, list(self._cut(samples, captions, tensors["labels"]))

    def blank(self, sample: Sample) -> Batch:
        """Captions of one image, (G, T), of which no token is supervised."""
        tensors = dict(self.processor(captions=[[""] * self.captions_per_image]))
        tensors["labels"].fill_(IGNORED_LABEL)
        return tensors

    def draw(self, sample: Sample) -> list[str]:
        """G captions: the next ones in an order that is the image's own."""
        captions, count = sample["captions"], self.captions_per_image
        order = random.Random(f"{self.seed} {sample['index']}").sample(captions, len(captions))
        start = sample.get("epoch", 0) * count
        return [order[(start + place) % len(order)] for place in range(count)]

    def _cut(self, samples: list[Sample], captions: list[list[str]], labels: Tensor) -> Iterator[Bad]:
        """Captions that were cut; tokens are counted again only where a row of the labels (N, T) is full."""
        most = self.processor.max_caption_length
        full = (labels != IGNORED_LABEL).sum(1).view(len(samples), -1) >= most
        for row, place in full.nonzero().tolist():
            text = captions[row][place]
            tokens = len(self.processor.tokenizer(text, **PLAIN_TEXT)["input_ids"]) + 1
            if tokens > most:
                yield Bad(CUT, samples[row]["id"], f"{tokens} tokens of {most}: {text}", left_out=False)


class SampleTargets:
    """`samples`: B dicts of `id`, `captions`, `context`, `index` and what the source adds, without images.

    Args:
        modalities: that are left out of them too, since they are large.
    """

    def __init__(self, modalities: Collection[str] = ()):
        self.large = ("image", *modalities)

    def faults(self, sample: Sample) -> list[Bad]:
        """As in `Targets`."""
        return list(sample.pop("bad", ()))

    def __call__(self, samples: list[Sample]) -> tuple[Batch, list[Bad]]:
        """As in `Targets`."""
        return {"samples": [{k: v for k, v in sample.items() if k not in self.large} for sample in samples]}, []

    def blank(self, sample: Sample) -> Batch:
        """A sample that nobody has said anything about."""
        return self([sample | {"context": None, "captions": [""]}])[0]
