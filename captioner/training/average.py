"""A moving average of the weights that are trained (Polyak and Juditsky 1992), on any layout of processes.

While it is young it forgets faster, so that the start does not linger.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class WeightAverage:
    """The average of a model's trained parameters after each step.

    It holds a tensor like each parameter, sharded where that is; buffers, such as those of batch norms, stay the
    model's own.

    Args:
        model: as it is trained; its parameters that take no gradient are left alone.
        decay: of the average in the long run; after n updates at most (1 + n) / (10 + n).
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.means = [p.detach().clone() for p in self.weights]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights after a step."""
        n = self.updates
        weight = 1 - min(self.decay, (1 + n) / (10 + n)) if n else 1.0
        for mean, parameter in zip(self.means, self.weights, strict=True):
            mean.lerp_(parameter.detach(), weight)
        self.updates += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model holds the average for the length of a `with`, and then exactly its own weights again."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for mean, parameter in zip(self.means, self.weights, strict=True):
            own = parameter.detach().clone()
            parameter.copy_(mean)
            mean.copy_(own)

    @torch.no_grad()
    def take(self, updates: int) -> None:
        """Let the weights that the model holds now be the average, after so many updates."""
        for mean, parameter in zip(self.means, self.weights, strict=True):
            mean.copy_(parameter.detach())
        self.updates = updates
