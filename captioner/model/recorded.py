"""What the attentions of a decoder did in one pass, and how each row of weights is split over modalities.

Where one softmax runs over all modalities, a token has its softmax mass. Where every modality has a softmax of its own,
which says nothing about the others, a modality's share is the norm of what it adds to the stream, over the sum of these
norms, after Kobayashi et al. 2020 (arXiv 2004.10102), and its softmax is scaled to that share. Which of the two holds
is for each mode to say, in `Mode.attributed`. Knows nothing about how a pass is recorded. Shape letters as in every
file; d, the width of a head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from .memory import Memory

Weights = dict[str, Tensor]
"""Modality → what a row gives to each token of its memory, (…, S_m)."""


@dataclass
class Recorded:
    """Weights, values and outputs of a decoder's modules in one pass, by module.

    Args:
        weights: of each attention, (B, H, G·T, S); of a self-attention (N, H, T, T).
        values: what the weights were multiplied with, (B, H, S, d).
        outputs: of each cross-attention and gate, (N, T, D).
    """

    weights: dict[nn.Module, Tensor] = field(default_factory=dict)
    values: dict[nn.Module, Tensor] = field(default_factory=dict)
    outputs: dict[nn.Module, Tensor] = field(default_factory=dict)


def by_mass(weights: Tensor, names: Sequence[str], memory: Memory) -> Weights:
    """One softmax (B, H, G·T, S) over the modalities `names`, side by side → (B, H, G·T, S_m) of each."""
    sizes = [memory.states[name].shape[1] for name in names]
    return dict(zip(names, weights.split(sizes, dim=-1), strict=True))


def by_norm(recorded: Recorded, attentions: Mapping[str, nn.Module], added: dict[str, Tensor]) -> Weights:
    """Each modality's softmax, scaled to its share of ‖what it added‖, which is a number per row and token.

    Args:
        attentions: modality → the module whose softmax it is.
        added: modality → what it added to the stream, (N, T, D).

    Returns:
        Modality → (B, H, G·T, S_m).
    """
    norms = {name: own.norm(dim=-1) for name, own in added.items()}  # (N, T)
    total = sum(norms.values())
    total = total.masked_fill(total == 0, 1.0)
    scaled = {}
    for name, norm in norms.items():
        weights = recorded.weights[attentions[name]]  # (B, H, G·T, S_m)
        scaled[name] = weights * (norm / total).reshape(weights.shape[0], 1, -1, 1)
    return scaled
