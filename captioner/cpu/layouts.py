"""A captioner as a search on a CPU runs it: the same numbers, a lean decoder, matrices where they are read faster.

What pays depends on the rows that are multiplied at once, images × beams; figures are in `benchmarks/README.md`.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import GELUActivation, GELUTanh

from ..model import Captioner, CrossAttention, FeedForward, Mode
from .lean import lean
from .products import by_onednn, by_pixels, onednn_is_wider, pixel_blocks

UNLIMITED = 2**63
SMALL, LARGE = 2**18, 2**20  # numbers in a matrix
MUCH = 2**29  # multiplications
FEW = 5  # rows
Copy = Callable[..., nn.Module | None]  # `_copy` of a layout for some rows
GELU = {GELUActivation: "none", GELUTanh: "tanh"}  # their formulas, as `F.gelu` calls them


class Room(NamedTuple):
    """What a layout may use.

    Args:
        copies: bytes of copied matrices.
        held: bytes of keys and values of the memory, at a time and over all layers.
        rows: with more rows than these only the vocabulary head is copied: the blocks gain little.
    """

    copies: int
    held: int
    rows: int


LAYOUTS = {
    "small": Room(0, 0, 0),
    "auto": Room(2**27, 2**26, 16),
    "fast": Room(UNLIMITED, UNLIMITED, UNLIMITED),
}


class LayoutError(ValueError):
    """A layout that there is not."""


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
        return _activated(F.linear(x, self.matrix, self.bias), self.gelu)


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
        if self.pointwise:
            self.blocks = pixel_blocks(matrix, rows)
        else:
            self.blocks = torch.ops.mkldnn._reorder_linear_weight(matrix, rows)

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
        multiply = by_pixels if self.pointwise else by_onednn
        y = multiply(rows, self.blocks, self.bias, gelu=self.gelu)
        return y[:count].view(*x.shape[:-1], self.out_features)


class Direct(nn.Module):
    """A linear map multiplied from where its matrix lies, without a copy: by oneDNN, or from the left, W·xᵀ.

    Args:
        linear: the map.
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
            return by_onednn(x, self.weight, self.bias, self.gelu)
        columns = x.reshape(count, -1).t()
        y = self.weight @ columns if self.bias is None else torch.addmm(self.bias[:, None], self.weight, columns)
        return _activated(y.t(), self.gelu).unflatten(0, x.shape[:-1])

    def _from_the_left(self, rows: int) -> bool:
        """For few rows, and where oneDNN is not the wider also for more, unless there is most to do."""
        if onednn_is_wider():
            return 1 < rows <= FEW and self.weight.shape[0] > self.weight.shape[1]
        return rows > 1 and rows * self.weight.numel() <= MUCH


def _activated(x: Tensor, gelu: str | None) -> Tensor:
    return x if gelu is None else F.gelu(x, approximate=gelu)


def _side_by_side(parts: Sequence[Tensor | None]) -> Tensor | None:
    if parts[0] is None:
        return None
    return torch.cat([part.detach() for part in parts]) if len(parts) > 1 else parts[0].detach()


def for_search(model: Captioner, images: int, beams: int, layout: str = "auto") -> Captioner:
    """The same captioner, whose decoder searches faster; for searching only.

    Parameters and encoders are shared with `model`, but copies of matrices may be added, which later changes of the
    parameters do not reach. Returns `model` itself where nothing is gained: not on a CPU, not in fp32, without oneDNN,
    or on another attention backend than SDPA.

    Args:
        images: of a batch.
        beams: or samples, of an image.
        layout: "fast" copies whatever pays; "small" copies nothing and holds no keys and values of the memory, "auto"
            none that are large.

    Raises:
        LayoutError: an unknown layout.
    """
    if layout not in LAYOUTS:
        raise LayoutError(f"`layout` must be one of {', '.join(LAYOUTS)}, but is {layout!r}")
    if model.device.type != "cpu" or model.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return model
    if model.config.decoder._attn_implementation != "sdpa":
        return model
    shared = {id(part): part for part in (model.encoder, *model.parameters(), *model.buffers())}
    fast = deepcopy(model, shared)
    with torch.no_grad():
        _lay_out(fast, images, beams, LAYOUTS[layout])
    return fast


def _lay_out(model: Captioner, images: int, beams: int, room: Room) -> None:
    """The vocabulary head first, then block after block while there is room."""
    rows = images * beams
    attentions = sum(isinstance(part, CrossAttention) for part in model.decoder.modules())
    held = room.held // max(attentions, 1)
    kind = Transposed if rows == 1 and not onednn_is_wider() else Packed
    layout, left = partial(_copy, kind, rows), room.copies
    size = _bytes(model.lm_head)
    copy = layout if size <= left else None
    model.lm_head, left = _laid_out(model.lm_head, copy), left - size if copy else left
    for block in model.decoder.blocks:
        size = sum(_bytes(part) for part in block.modules() if type(part) is nn.Linear)
        copy = layout if rows <= room.rows and size <= left else None
        lean(block, held, beams, copy)
        _replace(block, copy)
        left -= size if copy else 0


def _bytes(linear: nn.Linear) -> int:
    return linear.weight.numel() * linear.weight.element_size()


def _copy(
    layout: type[Transposed | Packed], rows: int, parts: Sequence[nn.Linear], gelu: str | None = None
) -> nn.Module | None:
    """Maps of one input, and the GELU after them, in a layout; None where it does not pay."""
    return layout(parts, rows, gelu) if layout.pays(parts) else None


def _laid_out(linear: nn.Linear, copy: Copy | None, gelu: str | None = None) -> nn.Module:
    return (copy([linear], gelu=gelu) if copy else None) or Direct(linear, gelu)


def _replace(module: nn.Module, copy: Copy | None) -> None:
    """Lay out all that is multiplied; without copies of what makes keys and values of a memory, once in a search."""
    once = ("key", "value") if isinstance(module, CrossAttention) else ()
    if isinstance(module, FeedForward) and type(module[1]) in GELU:
        module[0] = _laid_out(module[0], copy, GELU[type(module[1])])
        module[1] = nn.Identity()
    for name, part in list(module.named_children()):
        if type(part) is nn.Linear:
            setattr(module, name, _laid_out(part, None if name in once else copy))
        elif isinstance(part, Mode) and not part.calls_attentions:
            continue
        elif not isinstance(part, Transposed | Packed | Direct):
            _replace(part, copy)
