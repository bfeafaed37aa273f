"""Products by oneDNN through operators that are private to PyTorch, each with a plain one where it is missing.

All are for fp32 on a CPU and make no gradients. Knows no layers. Shapes: R rows; `in` and `out`, the sides of a matrix.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def _operator(name: str) -> Callable | None:
    return getattr(torch.ops.mkldnn, name, None)


LINEAR, PACK_LINEAR = _operator("_linear_pointwise"), _operator("_reorder_linear_weight")
CONVOLUTION, PACK_CONVOLUTION = _operator("_convolution_pointwise"), _operator("_reorder_convolution_weight")
PIXELS = ([0, 0], [1, 1], [1, 1])  # padding, stride and dilation of a convolution over single pixels


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: str | None = None) -> Tensor:
    """x (…, in) and weight (out, in), as it lies or packed by `pack_linear` → (…, out).

    `gelu`: the formula, as in `F.gelu`, of one that is applied before anything is written; None: nothing is.
    """
    if LINEAR is None:
        return activated(F.linear(x, weight, bias), gelu)
    return LINEAR(x, weight, bias, *_then(gelu))


def pack_linear(matrix: Tensor, rows: int) -> Tensor:
    """A matrix (out, in) in the blocks that `linear` reads fastest for so many rows."""
    return matrix if None in (LINEAR, PACK_LINEAR) else PACK_LINEAR(matrix, rows)


def by_pixels(
    x: Tensor, packed: Tensor, bias: Tensor | None = None, groups: int = 1, gelu: str | None = None
) -> Tensor:
    """x (R, groups·in), contiguous, and what `pack_pixels` made → (R, groups·out), each group times its own matrix.

    The rows are the pixels of one image, and a convolution over single pixels multiplies them.
    """
    if not packed.is_mkldnn:
        return _by_groups(x, packed, bias, groups, gelu)
    image = x.view(1, 1, *x.shape).permute(0, 3, 1, 2)
    y = CONVOLUTION(image, packed, bias, *PIXELS, groups, *_then(gelu))
    return y.permute(0, 2, 3, 1).view(len(x), -1)


def pack_pixels(matrices: Tensor, rows: int, groups: int = 1) -> Tensor:
    """Matrices (groups·out, in), one below the other, in the blocks that `by_pixels` reads, for so many rows."""
    if None in (CONVOLUTION, PACK_CONVOLUTION):
        return matrices
    image = [1, groups * matrices.shape[1], 1, rows]
    return PACK_CONVOLUTION(matrices[:, :, None, None], *PIXELS, groups, image)


def unpacked(packed: Tensor) -> Tensor:
    """What `pack_pixels` was given, (groups·out, in)."""
    return packed.to_dense().flatten(1) if packed.is_mkldnn else packed


def activated(x: Tensor, gelu: str | None) -> Tensor:
    """GELU by a formula of `F.gelu`; None: x itself."""
    return x if gelu is None else F.gelu(x, approximate=gelu)


def _by_groups(x: Tensor, matrices: Tensor, bias: Tensor | None, groups: int, gelu: str | None) -> Tensor:
    parts = x.unflatten(1, (groups, -1)).transpose(0, 1)  # (groups, R, in)
    y = (parts @ matrices.unflatten(0, (groups, -1)).transpose(1, 2)).transpose(0, 1).flatten(1)
    return activated(y if bias is None else y + bias, gelu)


def _then(gelu: str | None) -> tuple[str, list, str]:
    """What oneDNN does with a product before it writes it."""
    return ("none", [], "") if gelu is None else ("gelu", [], gelu)
