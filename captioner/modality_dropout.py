"""Samples that now and then lack their image or their context, so that one captioner learns to do without either.

One draw per sample and modality (Neverova et al. 2016, arXiv 1501.00102); never are all of a sample's hidden.
"""

import random
from typing import Any

from torch.utils.data import Dataset

from .data import CaptionDataset


class ModalityDropout(Dataset):
    """A `CaptionDataset` whose samples lose modalities by chance.

    What is hidden is a function of (seed, epoch, index) alone: not of workers, batches, processes or restarts.

    Args:
        chances: "image" or "context" → how often it is hidden, from 0 to 1.
    """

    def __init__(self, dataset: CaptionDataset, chances: dict[str, float], seed: int = 0):
        self.dataset, self.chances, self.seed = dataset, chances, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.dataset[index]
        draw = random.Random(f"modalities {self.seed} {sample['epoch']} {index}")
        present = [name for name in ("image", "context") if sample.get(name) is not None]
        hidden = [name for name in present if draw.random() < self.chances.get(name, 0.0)]
        if len(hidden) == len(present) > 0:
            hidden.remove(draw.choice(hidden))
        return sample | dict.fromkeys(hidden)
