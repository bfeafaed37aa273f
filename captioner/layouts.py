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

from .attention import CrossAttention, Joint
from .lean import lean
from .model import Captioner

UNLIMITED = 2**63
POINTWISE = ([0, 0], [1, 1], [1, 1], 1)  # padding, stride, dilation and groups of a convolution over single pixels


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
    """

    def __init__(self, parts: Sequence[nn.Linear], rows: int):
        super().__init__()
        self.bias = _side_by_side([part.bias for part in parts])
        self.matrix = _side_by_side([part.weight for part in parts]).t().contiguous().t()

    @staticmethod
    def pays(parts: Sequence[nn.Linear]) -> bool:
        """For wide maps only."""
        return sum(part.out_features for part in parts) > parts[0].in_features

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        return F.linear(x, self.matrix, self.bias)


class Packed(nn.Module):
    """Linear maps of one input, side by side, in oneDNN's blocks for a convolution over single pixels.

    oneDNN multiplies few rows faster by such convolutions than by its own matrix products. The blocks serve one number
    of rows: somewhat fewer are filled up with zeros, any other number is multiplied from the maps themselves.

    Args:
        parts: the maps.
        rows: for which it is made.
    """

    def __init__(self, parts: Sequence[nn.Linear], rows: int):
        super().__init__()
        self.parts, self.rows = nn.ModuleList(map(Direct, parts)), rows
        self.bias = _side_by_side([part.bias for part in parts])
        matrix = _side_by_side([part.weight for part in parts])
        self.out_features, self.in_features = matrix.shape
        self.blocks = torch.ops.mkldnn._reorder_convolution_weight(
            matrix[:, :, None, None], *POINTWISE, [1, self.in_features, 1, rows]
        )

    @staticmethod
    def pays(parts: Sequence[nn.Linear]) -> bool:
        """For all."""
        return True

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out); the rows are the pixels of one image."""
        count = x.shape[:-1].numel()
        if not self.rows / 2 < count <= self.rows:
            return torch.cat([part(x) for part in self.parts], dim=-1) if len(self.parts) > 1 else self.parts[0](x)
        rows = F.pad(x.reshape(count, -1), (0, 0, 0, self.rows - count)) if count < self.rows else x
        image = rows.reshape(1, 1, self.rows, self.in_features).permute(0, 3, 1, 2)
        y = torch.ops.mkldnn._convolution_pointwise(image, self.blocks, self.bias, *POINTWISE, "none", [], "")
        return y.permute(0, 2, 3, 1).reshape(self.rows, -1)[:count].view(*x.shape[:-1], self.out_features)


class Direct(nn.Module):
    """A linear map multiplied by oneDNN from where its matrix lies: for wide maps of several rows, without a copy."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        if x.shape[:-1].numel() == 1:
            return F.linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


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
    rows, left = images * beams, room.copies
    attentions = sum(isinstance(part, CrossAttention) for part in model.decoder.modules())
    held = room.held // max(attentions, 1)
    copy = partial(_copy, Transposed if rows == 1 else Packed, rows)
    size = _bytes(model.lm_head)
    if size <= left:
        model.lm_head, left = copy([model.lm_head]) or model.lm_head, left - size
    elif rows > 1:
        model.lm_head = Direct(model.lm_head)
    for block in model.decoder.blocks:
        size = sum(_bytes(part) for part in block.modules() if type(part) is nn.Linear)
        copied = rows <= room.rows and size <= left
        lean(block, held, copy if copied else None)
        if copied:
            _replace(block, copy)
            left -= size


def _bytes(linear: nn.Linear) -> int:
    return linear.weight.numel() * linear.weight.element_size()


def _copy(layout: type[Transposed | Packed], rows: int, parts: Sequence[nn.Linear]) -> nn.Module | None:
    """Maps of one input in a layout; None where it does not pay."""
    return layout(parts, rows) if layout.pays(parts) else None


def _replace(module: nn.Module, copy: Callable[[Sequence[nn.Linear]], nn.Module | None]) -> None:
    """Lay out all that is multiplied in every step, so not the keys and values of a memory."""
    left_alone = ("key", "value") if isinstance(module, CrossAttention) else ()
    for name, part in list(module.named_children()):
        if type(part) is nn.Linear and name not in left_alone:
            setattr(module, name, copy([part]) or part)
        elif not isinstance(part, Joint | Transposed | Packed):
            _replace(part, copy)
