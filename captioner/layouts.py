"""Where a decoder's matrices lie in memory: the same numbers, read faster by a search on a CPU, for memory.

What pays depends on the rows that are multiplied at once, images × beams; figures are in `benchmarks/speed.md`.
"""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .model import Captioner

MANY_ROWS = 16  # from here on only the vocabulary head gains


class Transposed(nn.Module):
    """A linear map whose matrix also lies as (in, out): for a single row."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.matrix = linear.weight.detach().t().contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        return F.linear(x, self.matrix.t(), self.bias)


class Packed(nn.Module):
    """A linear map whose matrix also lies in oneDNN's blocks: for several rows."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.blocks = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.blocks, self.bias, "none", [], "")


def for_search(model: Captioner, rows: int) -> Captioner:
    """The same captioner, whose decoder multiplies `rows` rows at once faster; for searching only.

    Parameters and encoders are shared with `model`, but copies of matrices are added, which later changes of the
    parameters do not reach: the vocabulary head's for more than `MANY_ROWS` rows, all of the decoder's below. Returns
    `model` itself where nothing is gained: not on a CPU, not in fp32, or without oneDNN.

    Args:
        rows: images times beams (or samples) of a batch.
    """
    if model.device.type != "cpu" or model.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return model
    shared = {id(part): part for part in (model.encoder, *model.parameters(), *model.buffers())}
    fast, layout = deepcopy(model, shared), Transposed if rows == 1 else Packed
    with torch.no_grad():
        fast.lm_head = layout(fast.lm_head)
        if rows <= MANY_ROWS:
            _replace(fast.decoder, layout)
    return fast


def _replace(module: nn.Module, layout: type[nn.Module]) -> None:
    for name, part in list(module.named_children()):
        if type(part) is nn.Linear:
            setattr(module, name, layout(part))
        else:
            _replace(part, layout)
