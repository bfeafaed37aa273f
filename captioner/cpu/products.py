"""Large products in fp32 on a CPU by oneDNN, where torch's own do not use the widest instructions.

MKL, by which torch multiplies, takes AVX2 on processors that are not Intel's, and so half of what AVX-512 gives;
oneDNN asks the processor. With AVX2 both are equally fast. Knows no captioner.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..model import is_plain, matrix_product
from . import onednn

LEAST = 2**22  # multiplications: smaller products are left to torch


@cache
def onednn_is_wider() -> bool:
    """Whether oneDNN is there, with the product that is private to PyTorch, and this processor has AVX-512."""
    there = torch.backends.mkldnn.is_available() and onednn.LINEAR is not None
    return there and torch.backends.cpu.get_cpu_capability() == "AVX512"


def wide_products(device: torch.device, recomputed: bool = False) -> AbstractContextManager:
    """Within it, products on a CPU are multiplied by oneDNN, forward and backward, where that is faster.

    What `torch.compile` traces is left to it.

    Args:
        recomputed: whether backward, outside of this context, computes layers again, which must come out the same:
            then only the loss from the vocabulary head is multiplied so, which is never computed again.
    """
    wider = device.type == "cpu" and not torch.compiler.is_compiling() and onednn_is_wider()
    if not wider:
        return nullcontext()
    return _WideProducts({matrix_product: _matrix_product} | ({} if recomputed else {F.linear: _linear}))


class _WideProducts(TorchFunctionMode):
    """Asks other functions in place of some of torch's.

    Args:
        instead: function → what computes the same, or None where it leaves that to the function itself.
    """

    def __init__(self, instead: dict[Callable, Callable[..., Tensor | None]]):
        super().__init__()
        self.instead = instead

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if not kwargs and func in self.instead and (found := self.instead[func](*args)) is not None:
            return found
        return func(*args, **(kwargs or {}))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    return _Linear.apply(x, weight, bias) if _fits(x, weight, bias) else None


def _fits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether it is a large product of plain fp32 matrices on a CPU."""
    if torch.is_autocast_enabled("cpu") or x.ndim < 2 or weight.ndim != 2:
        return False
    if x.shape[:-1].numel() * weight.numel() < LEAST:
        return False
    return all(is_plain(own) for own in (x, weight, bias) if own is not None)


def _matrix_product(x: Tensor, weight: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor | None:
    """As of `matrix_product`, elsewhere than in `out`."""
    return onednn.linear(x, weight, bias) if x.numel() else None


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(…, in) → (…, out)."""
        ctx.save_for_backward(x, weight)
        return onednn.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = gradient.reshape(-1, len(weight))
        return (
            onednn.linear(rows, weight.t()).view(x.shape) if of_x else None,
            onednn.linear(rows.t(), x.reshape(-1, x.shape[-1]).t()) if of_weight else None,
            rows.sum(dim=0) if of_bias else None,
        )
