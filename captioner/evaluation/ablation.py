"""Is a modality really used? A split scored with each modality blanked, and with each taken from another sample.

Captions that stay as good with another sample's context never read it.
"""

from collections.abc import Callable, Iterable
from typing import Any

from torch.utils.data import Dataset

from ..base import GenerationSettings
from ..model import Captioner, CaptionerProcessor
from .evaluation import EvaluationOptions, evaluate


class Blanked(Dataset):
    """A split whose samples all lack one modality."""

    def __init__(self, samples: Any, modality: str):
        self.samples, self.modality = samples, modality

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.samples[index], self.modality: None}


class Shuffled(Blanked):
    """A split whose samples have one modality of the sample half a split away; nothing is drawn."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        other = (index + max(len(self) // 2, 1)) % len(self)
        return {**self.samples[index], self.modality: self.samples[other].get(self.modality)}


CHANGES = {"blanked": Blanked, "shuffled": Shuffled}


def ablate(
    model: Captioner,
    processor: CaptionerProcessor,
    samples: Any,
    generation: GenerationSettings,
    options: EvaluationOptions | None = None,
    watch: Callable[[Iterable], Iterable] = iter,
) -> dict[str, dict[str, float]]:
    """Score a split as it is and with every modality blanked and shuffled.

    Args:
        samples: a split in the data schema.
        options: of every evaluation; None: the usual ones.
        watch: wraps the batches of each, for a progress bar.

    Returns:
        Name of a row ("as it is", "image blanked", …) → scores.
    """
    splits = {"as it is": samples} | {
        f"{modality} {kind}": change(samples, modality)
        for modality in model.config.modalities
        for kind, change in CHANGES.items()
    }
    return {
        name: evaluate(model, processor, split, generation, options, watch=watch).scores
        for name, split in splits.items()
    }
