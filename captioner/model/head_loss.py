"""Cross-entropy straight from the states before a vocabulary head, for training on a CPU; knows no captioner.

Gradients are made where the logits are, so that the logits of all words are never kept (as in Liger's fused linear
cross-entropy, Hsu et al. 2024, arXiv 2410.10989). Shapes: R supervised tokens, D, V words.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import wrap_torch_function

from .unmodified import is_plain, is_unmodified

PIECE = 1024  # tokens whose logits are made at a time
ALIGNED = 16  # numbers: products are written slower to rows that start anywhere


def head_cross_entropy(head: nn.Module, states: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of `head(states)`, summed over the tokens: states (R, D), targets (R,) → a scalar.

    Args:
        smoothing: the share of each target that is spread over the vocabulary.
    """
    if not _only_multiplies(head, states):
        return F.cross_entropy(head(states).float(), targets, reduction="sum", label_smoothing=smoothing)
    inputs = (states, head.weight, head.bias)
    if not torch.is_grad_enabled():
        inputs = tuple(None if own is None else own.detach() for own in inputs)
    return _HeadCrossEntropy.apply(*inputs, targets, smoothing)


def _only_multiplies(head: nn.Module, states: Tensor) -> bool:
    """Whether the head is a product in float32 on a CPU and nothing else."""
    if not is_unmodified(head, nn.Linear) or torch.is_autocast_enabled("cpu"):
        return False
    return is_plain(states) and is_plain(head.weight)


@wrap_torch_function(lambda x, weight, bias=None, out=None: (x, weight))
def matrix_product(x: Tensor, weight: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """x (R, in) and weight (out, in), of any strides → (R, out), written to `out` if given; without gradients.

    A `TorchFunctionMode` may multiply otherwise, as it may all functions of torch; it need not write to `out`.
    """
    y = torch.mm(x, weight.t(), out=out)
    return y if bias is None else y.add_(bias)


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, smoothing: float
    ) -> Tensor:
        """Loss and, of what wants them, gradients, piece by piece."""
        of_states, of_weight, of_bias = ctx.needs_input_grad[:3]
        pieces: list[Tensor] = []
        totals: list[Tensor | None] = [None, None]
        loss = states.new_zeros(())
        buffer = states.new_empty(min(len(states), PIECE), _aligned(len(weight)))[:, : len(weight)]
        for own, wanted in zip(states.split(PIECE), targets[:, None].split(PIECE), strict=True):
            logits = matrix_product(own, weight, bias, buffer[: len(own)])
            loss += _into_gradient(logits, wanted, smoothing)
            if of_states:
                pieces.append(matrix_product(logits, weight.t()))
            if of_weight:
                totals[0] = _sum(totals[0], matrix_product(logits.t(), own.t()))
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
