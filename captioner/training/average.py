"""A moving average of the weights that are trained (Polyak and Juditsky 1992), on any layout of processes.

While it is young it forgets faster, so that the start does not linger. The averaging is torch's; knows nothing about
files or schedules.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage:
    """The average of a model's trained parameters after each step.

    It holds a tensor like each parameter, sharded where that is; buffers, such as those of batch norms, stay the
    model's own.

    Args:
        model: as it is trained; its parameters that take no gradient are left alone.
        decay: of the average in the long run; after n updates at most (1 + n) / (10 + n).
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.weights = nn.ParameterList(p for p in model.parameters() if p.requires_grad)
        self.averaged = AveragedModel(self.weights, multi_avg_fn=self._average)

    @property
    def updates(self) -> int:
        """How often the average was moved."""
        return int(self.averaged.n_averaged)

    def update(self) -> None:
        """Move the average towards the weights after a step; the first time, it becomes what they are."""
        self.averaged.update_parameters(self.weights)

    def _average(self, means: list[Tensor], weights: list[Tensor], updates: Tensor) -> None:
        n = self.updates  # `updates` may lie on a GPU, which would have to be waited for
        get_ema_multi_avg_fn(min(self.decay, (1 + n) / (10 + n)))(means, weights, updates)

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
        for mean, parameter in zip(self.averaged.parameters(), self.weights, strict=True):
            own = parameter.detach().clone()
            parameter.copy_(mean)
            mean.copy_(own)

    @torch.no_grad()
    def take(self, updates: int) -> None:
        """Let the weights that the model holds now be the average, after so many updates."""
        for mean, parameter in zip(self.averaged.parameters(), self.weights, strict=True):
            mean.copy_(parameter.detach())
        self.averaged.n_averaged.fill_(updates)
