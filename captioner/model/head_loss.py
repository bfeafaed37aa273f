"""Cross-entropy straight from the states before a vocabulary head, for training on a CPU; knows no captioner.

Gradients are made where the logits are, so that the logits of all words are never kept (as in Liger's fused linear
cross-entropy, Hsu et al. 2024, arXiv 2410.10989). Shapes: R supervised tokens, D, V words.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..cpu import by_onednn, is_plain, onednn_is_wider, product

PIECE = 1024  # tokens whose logits are made at a time
ALIGNED = 16  # numbers: products are written slower to rows that start anywhere


def head_cross_entropy(head: nn.Module, states: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of `head(states)`, summed over the tokens: states (R, D), targets (R,) → a scalar.

    Args:
        smoothing: the share of each target that is spread over the vocabulary.
    """
    if not _only_multiplies(head, states):
        return F.cross_entropy(head(states).float(), targets, reduction="sum", label_smoothing=smoothing)
    return _HeadCrossEntropy.apply(states, head.weight, head.bias, targets, smoothing)


def _only_multiplies(head: nn.Module, states: Tensor) -> bool:
    """Whether the head is a product in float32 on a CPU and nothing else."""
    if type(head) is not nn.Linear or torch.is_autocast_enabled("cpu"):
        return False
    return is_plain(states) and is_plain(head.weight)


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, smoothing: float
    ) -> Tensor:
        """Loss and gradients, piece by piece."""
        of_states, of_weight, of_bias = ctx.needs_input_grad[:3]
        pieces: list[Tensor] = []
        totals: list[Tensor | None] = [None, None]
        loss = states.new_zeros(())
        room = states.new_empty(0 if onednn_is_wider() else min(len(states), PIECE), _aligned(len(weight)))
        for own, wanted in zip(states.split(PIECE), targets[:, None].split(PIECE), strict=True):
            logits = _logits(own, weight, bias, room)
            loss += _into_gradient(logits, wanted, smoothing)
            if of_states:
                pieces.append(product(logits, weight.t()))
            if of_weight:
                totals[0] = _sum(totals[0], product(logits.t(), own.t()))
            if of_bias:
                totals[1] = _sum(totals[1], logits.sum(dim=0))
        ctx.save_for_backward(torch.cat(pieces) if of_states else None, *totals)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of states, weight and bias."""
        return *(None if gradient is None else gradient * scale for gradient in ctx.saved_tensors), None, None


def _aligned(words: int) -> int:
    return -(-words // ALIGNED) * ALIGNED


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None, room: Tensor) -> Tensor:
    """States (R, D) → (R, V), in the room where oneDNN does not make them."""
    if onednn_is_wider() and len(states):
        return by_onednn(states, weight, bias)
    logits = torch.mm(states, weight.t(), out=room[: len(states), : len(weight)])
    return logits if bias is None else logits.add_(bias)


def _into_gradient(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Logits (R, V) become their gradient in place; → the summed loss. Targets (R, 1)."""
    words = logits.shape[1]
    highest = logits.amax(dim=1, keepdim=True)
    wanted = (1 - smoothing) * logits.gather(1, targets)
    if smoothing:
        wanted += smoothing * logits.mean(dim=1, keepdim=True)
    total = logits.sub_(highest).exp_().sum(dim=1, keepdim=True)
    logits.div_(total).scatter_add_(1, targets, torch.full_like(total, smoothing - 1))
    if smoothing:
        logits -= smoothing / words
    return (highest + total.log() - wanted).sum()


def _sum(total: Tensor | None, more: Tensor) -> Tensor:
    return more if total is None else total.add_(more)
