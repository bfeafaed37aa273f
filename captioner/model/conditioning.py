"""What a conditioning mode is: all that whoever builds, explains, switches or speeds up a captioner asks of one.

Knows no mode; they are in `modes.py`. Shape letters: B, G, N = B·G, T, S, D, H as in every file.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn
from transformers import EncoderDecoderCache

from .branches import Branch
from .configuration import CaptionerConfig, DecoderConfig
from .memory import Memory
from .recorded import Recorded, Weights


class Mode(nn.Module, ABC):
    """The cross-attention of one block, with its residual connection.

    Args:
        config: of the decoder.
        widths: modality → width D_m of its states, in the configured order.
        layer: number of the block, from 0, from which the mode's entries in the cache follow.

    Attributes:
        combination: how the modalities' results become one, in the words of a warning.
        one_softmax: whether one softmax runs over all modalities, which then need one kind of attention.
        calls_attentions: whether it uses each `CrossAttention` in it by calling it, so that another module that
            computes the same may stand for it. Where it takes them apart, nothing in it may be replaced.
    """

    combination: ClassVar[str]
    one_softmax: ClassVar[bool] = False
    calls_attentions: ClassVar[bool] = False

    def __init__(self, config: DecoderConfig, widths: dict[str, int], layer: int):
        super().__init__()

    @abstractmethod
    def forward(self, x: Tensor, memory: Memory, cache: EncoderDecoderCache | None = None) -> Tensor:
        """x (N, T, D), a memory of B rows, N = B·G → (N, T, D)."""

    @abstractmethod
    def attributed(self, recorded: Recorded, memory: Memory) -> Weights:
        """What a pass gave to each token of its memory: modality → (B, H, G·T, S_m).

        Over all modalities together a row sums to 1, or to 0 where it had nothing to attend to or nothing was added.
        """

    @abstractmethod
    def branches(self) -> dict[str, Branch]:
        """Modality → what its part is."""

    @abstractmethod
    def load_branches(self, branches: dict[str, Branch]) -> None:
        """Take over the parts of another mode, of some or all modalities, as far as they fit."""

    @classmethod
    def ungated(cls, config: CaptionerConfig) -> list[str]:
        """The modalities that a captioner in this mode attends to without a gate."""
        return config.modalities

    @classmethod
    def ungated_after_switch(cls, config: CaptionerConfig) -> list[str]:
        """`decoder.ungated_modalities` of a trained captioner that is switched to this mode."""
        return []
