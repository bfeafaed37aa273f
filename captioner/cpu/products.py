"""Linear maps in fp32 on a CPU, multiplied by oneDNN where torch's own product does not use the widest instructions.

MKL, by which torch multiplies, takes AVX2 on processors that are not Intel's, and so half of what AVX-512 gives;
oneDNN asks the processor. With AVX2 both are equally fast. Knows no captioner.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

LEAST = 2**22  # multiplications: smaller products are left to torch
PIXELS = ([0, 0], [1, 1], [1, 1])  # padding, stride and dilation of a convolution over single pixels


@cache
def onednn_is_wider() -> bool:
    """Whether oneDNN is there, with the product that is private to PyTorch, and this processor has AVX-512."""
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return there and torch.backends.cpu.get_cpu_capability() == "AVX512"


def wide_products(device: torch.device) -> AbstractContextManager:
    """Within it, `F.linear` on a CPU is multiplied by oneDNN, forward and backward, where that is faster.

    What `torch.compile` traces is left to it.
    """
    wider = device.type == "cpu" and not torch.compiler.is_compiling() and onednn_is_wider()
    return _WideProducts() if wider else nullcontext()


def is_plain(x: Tensor) -> bool:
    """Whether it is a matrix of fp32 in this computer's memory: not sharded, not quantised, not on a GPU."""
    return type(x) in (Tensor, nn.Parameter) and x.device.type == "cpu" and x.dtype == torch.float32


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x (R, in) and weight (out, in), of any strides, in fp32 on a CPU → (R, out); without gradients."""
    return by_onednn(x, weight) if onednn_is_wider() and x.numel() else x @ weight.t()


def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: str | None = None) -> Tensor:
    """x (…, in) and weight (out, in) or oneDNN's blocks of it, in fp32 on a CPU → (…, out); without gradients.

    `gelu`: the formula, as in `F.gelu`, of one that is applied before anything is written; None: nothing is.
    """
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *_then(gelu))


def pixel_blocks(matrices: Tensor, rows: int, groups: int = 1) -> Tensor:
    """Matrices (groups·out, in), one below the other, in the blocks that `by_pixels` reads, for so many rows."""
    image = [1, groups * matrices.shape[1], 1, rows]
    return torch.ops.mkldnn._reorder_convolution_weight(matrices[:, :, None, None], *PIXELS, groups, image)


def by_pixels(
    x: Tensor, blocks: Tensor, bias: Tensor | None = None, groups: int = 1, gelu: str | None = None
) -> Tensor:
    """x (R, groups·in), contiguous, and `pixel_blocks` → (R, groups·out), each group times its own matrix.

    The rows are the pixels of one image, and a convolution over single pixels multiplies them.
    """
    image = x.view(1, 1, *x.shape).permute(0, 3, 1, 2)
    y = torch.ops.mkldnn._convolution_pointwise(image, blocks, bias, *PIXELS, groups, *_then(gelu))
    return y.permute(0, 2, 3, 1).view(len(x), -1)


def _then(gelu: str | None) -> tuple[str, list, str]:
    """What oneDNN does with a product before it writes it."""
    return ("none", [], "") if gelu is None else ("gelu", [], gelu)


class _WideProducts(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.linear and not kwargs and _fits(*args):
            return _Linear.apply(*args, *(None,) * (3 - len(args)))
        return func(*args, **(kwargs or {}))


def _fits(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether it is a large product of plain fp32 matrices on a CPU."""
    if torch.is_autocast_enabled("cpu") or x.ndim < 2 or weight.ndim != 2:
        return False
    if x.shape[:-1].numel() * weight.numel() < LEAST:
        return False
    return all(is_plain(own) for own in (x, weight, bias) if own is not None)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(…, in) → (…, out)."""
        ctx.save_for_backward(x, weight)
        return by_onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = gradient.reshape(-1, len(weight))
        return (
            by_onednn(rows, weight.t()).view(x.shape) if of_x else None,
            by_onednn(rows.t(), x.reshape(-1, x.shape[-1]).t()) if of_weight else None,
            rows.sum(dim=0) if of_bias else None,
        )
