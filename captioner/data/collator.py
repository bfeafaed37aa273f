"""Samples to batches: the tensors of `Captioner.forward`, and what was wrong with the samples.

Puts together what `encoder_inputs.py` and `targets.py` make. Knows nothing about models or scores.
"""

from collections.abc import Collection
from typing import Any

from ..model import CaptionerProcessor
from .augmentation import Augmentation
from .dataset import Batch, Sample
from .encoder_inputs import EncoderInputs
from .faults import Bad
from .targets import CaptionTargets, SampleTargets, Targets


class Collator:
    """Samples of a `CaptionDataset` to batches with captions to learn.

    What it draws is a function of (seed, epoch, index) alone: not of workers, batches or restarts. A sample
    whose image cannot be read or that has no caption to learn is left out, which `bad` of the batch says. A batch that
    would be empty holds a blank sample without labels, so that no process waits for it.

    Args:
        processor: makes the tensors.
        captions_per_image: G; see `CaptionTargets`.
        augment: options of `timm.data.create_transform`; empty: the processor's plain transform.
        seed: of captions and augmentations.
        modalities: `config.modalities` of the captioner; None: those that a sample of the batch has.

    Raises:
        DataError: an option of `augment` that timm refuses.
    """

    def __init__(
        self,
        processor: CaptionerProcessor,
        captions_per_image: int = 1,
        augment: dict[str, Any] | None = None,
        seed: int = 0,
        modalities: Collection[str] | None = None,
    ):
        augmentation = Augmentation(augment, processor.image_settings, seed) if augment else None
        self.inputs = EncoderInputs(processor, modalities, augmentation)
        self.targets: Targets = CaptionTargets(processor, captions_per_image, seed)

    def __call__(self, samples: list[Sample]) -> Batch:
        """B samples → `pixel_values` (B, 3, H, W), `context_input_ids` (B, L), `labels` (N, T), `NAME_values`, …

        `bad`, only where there is something: a list of `Bad`.
        """
        wanted = self.inputs.wanted(samples)
        usable, bad = self._usable(samples)
        opened = self.inputs.open(usable, wanted)
        bad += opened.bad
        if not opened.samples:
            batch = self._empty(samples[0], wanted)
        else:
            batch = self.inputs(opened, wanted)
            targets, cut = self.targets(opened.samples)
            batch, bad = batch | targets, bad + cut
        return batch | {"bad": list(dict.fromkeys(bad))} if bad else batch

    def _usable(self, samples: list[Sample]) -> tuple[list[Sample], list[Bad]]:
        """The samples that may be used, and everything that is known to be wrong with any of them."""
        usable, bad = [], []
        for sample in samples:
            faults = self.targets.faults(sample)
            bad += faults
            if not any(fault.left_out for fault in faults):
                usable.append(sample)
        return usable, bad

    def _empty(self, sample: Sample, wanted: Collection[str]) -> Batch:
        """The batch of samples of which none can be used."""
        return self.inputs.blank(sample, wanted) | self.targets.blank(sample)


class SampleCollator(Collator):
    """The same with `samples`, B dicts, in the place of caption tensors, for objectives that say what is learnt."""

    def __init__(
        self,
        processor: CaptionerProcessor,
        augment: dict[str, Any] | None = None,
        seed: int = 0,
        modalities: Collection[str] | None = None,
    ):
        super().__init__(processor, augment=augment, seed=seed, modalities=modalities)
        self.targets = SampleTargets(processor.further)


class EvaluationCollator(SampleCollator):
    """Plain images and contexts, and `samples`; a batch of which nothing can be used has no samples."""

    def __init__(self, processor: CaptionerProcessor, modalities: Collection[str] | None = None):
        super().__init__(processor, modalities=modalities)

    def _empty(self, sample: Sample, wanted: Collection[str]) -> Batch:
        return {"samples": []}
