"""A split as loaders and their workers see it: each sample with its place and the epoch.

Knows nothing about tensors of captions or images.
"""

from typing import Any, Protocol

import torch

Sample = dict[str, Any]  # of the data schema; see `sources.py`
Batch = dict[str, Any]  # by the names of `Captioner.forward`


class Split(Protocol):
    """Samples of one split, found by their place.

    Its `texts` are rows of `captions` and `context`, read without an image.
    """

    texts: Any

    def __len__(self) -> int:
        """How many samples there are."""

    def __getitem__(self, index: int) -> Sample:
        """The sample at a place."""


class CaptionDataset(torch.utils.data.Dataset):
    """Samples with their `index` and the `epoch`, which workers see change though they were started before.

    Call `set_epoch` before each pass over the loader; the number lies in shared memory.
    """

    def __init__(self, samples: Split):
        self.samples = samples
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose which captions and augmentations the next pass draws."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return {**self.samples[index], "index": index, "epoch": int(self._epoch)}
