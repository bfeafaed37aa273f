"""What one modality's part of a mode is, in states that every mode can be read as and written from.

Knows tensors by name; knows nothing about modes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

State = dict[str, Tensor]  # a module's state dict


@dataclass
class Branch:
    """One modality's cross-attention, whatever the mode.

    Args:
        attention: state of its `CrossAttention`.
        norm: state of the norm that it reads through.
        order: class of the residual connection, which says where the norm stands.
    """

    attention: State
    norm: State
    order: type

    def same(self, other: "Branch") -> bool:
        """Whether the two compute the same, but for rounding."""
        pairs = [(self.attention, other.attention), (self.norm, other.norm)]
        return self.order is other.order and all(
            torch.allclose(own[key], theirs[key], rtol=1e-6) for own, theirs in pairs for key in own
        )


def scaled(attention: State, factor: Tensor | float) -> State:
    """The state of an attention whose output is multiplied by a number."""
    return attention | {key: attention[key] * factor for key in ("output.weight", "output.bias")}


def mean(states: Iterable[State]) -> State:
    """The mean of each tensor over several states of one shape."""
    states = list(states)
    return {key: torch.stack([state[key] for state in states]).mean(dim=0) for key in states[0]}
