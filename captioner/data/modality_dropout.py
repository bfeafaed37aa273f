"""Samples that now and then lack a modality, so that one captioner learns to do without any of them.

One draw per sample and modality (Neverova et al. 2016, arXiv 1501.00102); never are all of a sample's hidden. Knows
nothing about tensors.
"""

import random
from collections.abc import Sequence

from torch.utils.data import Dataset

from ..base import SettingsError
from .dataset import CaptionDataset, Sample


class ModalityDropout(Dataset):
    """A `CaptionDataset` whose samples lose modalities by chance.

    What is hidden is a function of (seed, epoch, index) alone: not of workers, batches, processes or restarts.

    Args:
        dataset: None, where only `hide` is called.
        chances: modality → how often it is hidden, from 0 to 1.
        modalities: all that samples may have.

    Raises:
        SettingsError: a chance of a modality that there is not.
    """

    def __init__(
        self,
        dataset: CaptionDataset | None,
        chances: dict[str, float],
        seed: int = 0,
        modalities: Sequence[str] = ("image", "context"),
    ):
        unknown = sorted(set(chances) - set(modalities))
        if unknown:
            raise SettingsError(
                f"`data.modality_dropout` may have {', '.join(modalities)}, but has {', '.join(unknown)}"
            )
        self.dataset, self.chances, self.seed, self.modalities = dataset, chances, seed, modalities

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        return self.hide(self.dataset[index])

    def hide(self, sample: Sample) -> Sample:
        """A sample with its `index` and `epoch`, without what the draw takes from it."""
        draw = random.Random(f"modalities {self.seed} {sample['epoch']} {sample['index']}")
        present = [name for name in self.modalities if sample.get(name) is not None]
        hidden = [name for name in present if draw.random() < self.chances.get(name, 0.0)]
        if len(hidden) == len(present) > 0:
            hidden.remove(draw.choice(hidden))
        return sample | dict.fromkeys(hidden)
