"""What a step minimises, by the names of `training.objective`.

An objective turns what the loader brought into what its loss needs, and that into a loss summed over tokens. Knows
nothing about gradients or processes.
"""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

from ..base import Settings
from ..data import Batch, Split
from ..model import Captioner, CaptionerProcessor
from .self_critical import Reward, SelfCritical, document_frequencies


class Objective(Protocol):
    """What a step minimises."""

    def prepare(self, batch: Batch) -> Batch:
        """What the loader brought, with whatever the loss needs beside it."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss summed over the supervised tokens of a batch, a scalar."""


class CrossEntropy:
    """The reference captions, word by word.

    Args:
        smoothing: the share of each target that is spread over the vocabulary.
    """

    def __init__(self, smoothing: float = 0.0):
        self.smoothing = smoothing

    def prepare(self, batch: Batch) -> Batch:
        """The batch as it is."""
        return batch

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Inputs of `Captioner.forward` → cross-entropy, summed over the supervised tokens; others get no logits."""
        return model(**batch, loss_only=True, label_smoothing=self.smoothing).loss


def _cross_entropy(settings: Settings, model: Captioner, processor: CaptionerProcessor, samples: Split) -> Objective:
    return CrossEntropy(settings.training.label_smoothing_factor)


def _self_critical(settings: Settings, model: Captioner, processor: CaptionerProcessor, samples: Split) -> Objective:
    options, reward = settings.training, Reward(document_frequencies(samples))
    longest = settings.generation.max_new_tokens
    return SelfCritical(model, processor, reward, options.self_critical, longest, options.seed)


# settings, the captioner that is trained, its processor, the training split → the objective
OBJECTIVES: dict[str, Callable[[Settings, Captioner, CaptionerProcessor, Split], Objective]] = {
    "cross_entropy": _cross_entropy,
    "self_critical": _self_critical,
}
