"""`nn.Linear` as a search on a CPU multiplies it fastest, by the rows that are multiplied at once; without gradients.

Figures are in `benchmarks/README.md`. Knows no other layers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import onednn
from .onednn import activated
from .products import onednn_is_wider

SMALL, LARGE = 2**18, 2**20  # numbers in a matrix
MUCH = 2**29  # multiplications
FEW = 5  # rows


class Transposed(nn.Module):
    """Linear maps of one input, side by side, whose matrix lies as (in, out): for a single row.

    Args:
        parts: the maps.
        rows: for which it is meant; it takes any.
        gelu: the formula of one that follows; None: nothing does.
    """

    def __init__(self, parts: Sequence[nn.Linear], rows: int, gelu: str | None = None):
        super().__init__()
        self.gelu = gelu
        self.bias = _side_by_side([part.bias for part in parts])
        self.matrix = _side_by_side([part.weight for part in parts]).t().contiguous().t()

    @staticmethod
    def pays(parts: Sequence[nn.Linear]) -> bool:
        """For wide maps only."""
        return sum(part.out_features for part in parts) > parts[0].in_features

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        return activated(F.linear(x, self.matrix, self.bias), self.gelu)


class Packed(nn.Module):
    """Linear maps of one input, side by side, in oneDNN's blocks: for several rows.

    The blocks serve one number of rows: somewhat fewer are filled up with zeros, any other number is multiplied from
    the maps themselves. Large matrices, and those for one row, lie in the blocks of a convolution over single pixels,
    which takes longer to start and multiplies faster than a product of matrices; small ones are not worth starting
    oneDNN.

    Args:
        parts: the maps.
        rows: for which it is made.
        gelu: the formula of one that follows, computed before the product is written; None: nothing follows.
    """

    def __init__(self, parts: Sequence[nn.Linear], rows: int, gelu: str | None = None):
        super().__init__()
        self.parts, self.rows, self.gelu = nn.ModuleList(Direct(part, gelu) for part in parts), rows, gelu
        self.bias = _side_by_side([part.bias for part in parts])
        matrix = _side_by_side([part.weight for part in parts])
        self.out_features, self.in_features = matrix.shape
        self.pointwise = rows == 1 or matrix.numel() > LARGE
        pack = onednn.pack_pixels if self.pointwise else onednn.pack_linear
        self.packed = pack(matrix, rows)

    @staticmethod
    def pays(parts: Sequence[nn.Linear]) -> bool:
        """For all but small ones."""
        return sum(part.weight.numel() for part in parts) >= SMALL

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        count = x.shape[:-1].numel()
        if not self.rows / 2 < count <= self.rows:
            several = [part(x) for part in self.parts]
            return torch.cat(several, dim=-1) if len(several) > 1 else several[0]
        rows = x.reshape(count, -1)
        if count < self.rows:
            rows = F.pad(rows, (0, 0, 0, self.rows - count))
        multiply = onednn.by_pixels if self.pointwise else onednn.linear
        y = multiply(rows, self.packed, self.bias, gelu=self.gelu)
        return y[:count].view(*x.shape[:-1], self.out_features)


class Direct(nn.Module):
    """A linear map multiplied from where its matrix lies, without a copy: by oneDNN, or from the left, W·xᵀ.

    Args:
        linear: the map, whose parameters it shares.
        gelu: the formula of one that follows; None: nothing does.
    """

    def __init__(self, linear: nn.Linear, gelu: str | None = None):
        super().__init__()
        self.weight, self.bias, self.gelu = linear.weight, linear.bias, gelu
        self.out_features = linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out), which need not be contiguous."""
        count = x.shape[:-1].numel()
        if not self._from_the_left(count):
            return onednn.linear(x, self.weight, self.bias, self.gelu)
        columns = x.reshape(count, -1).t()
        y = self.weight @ columns if self.bias is None else torch.addmm(self.bias[:, None], self.weight, columns)
        return activated(y.t(), self.gelu).unflatten(0, x.shape[:-1])

    def _from_the_left(self, rows: int) -> bool:
        """For few rows, and where oneDNN is not the wider also for more, unless there is most to do."""
        if onednn_is_wider():
            return 1 < rows <= FEW and self.weight.shape[0] > self.weight.shape[1]
        return rows > 1 and rows * self.weight.numel() <= MUCH


def _side_by_side(parts: Sequence[Tensor | None]) -> Tensor | None:
    if parts[0] is None:
        return None
    return torch.cat([part.detach() for part in parts]) if len(parts) > 1 else parts[0].detach()
