"""Keys and values of a memory in oneDNN's blocks, for several captions of an image on a CPU; knows no layers.

One convolution over single pixels multiplies all images and heads: a matrix of an image and head is a group of it, and
the captions' positions are its pixels. So keys and values are read once for all captions of an image, at the speed of
memory. Shape letters: B, S, H as in every file; R = G·T, rows of queries of an image; d, the width of a head.
"""

from copy import copy

import torch
from torch import Tensor

from .onednn import by_pixels, pack_pixels, unpacked


class PackedMatrices:
    """A matrix (out, in) for every image and head.

    Args:
        matrices: (B, H, out, in), in fp32 on a CPU.
        added: (B, H, out), added to each row of products; None: nothing.
        rows: R that is expected; any is taken.
    """

    def __init__(self, matrices: Tensor, added: Tensor | None, rows: int):
        self.shape, self.added, self.rows = matrices.shape, added, rows
        self.groups = self.shape[:2].numel()
        self.packed = pack_pixels(matrices.reshape(-1, self.shape[-1]), rows, self.groups)
        self.places: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the matrices."""
        return self.packed.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """x (R, B, H, in), contiguous → (R, B, H, out)."""
        added = None if self.added is None else self.added.flatten()
        y = by_pixels(x.flatten(1), self.packed, added, self.groups)
        return y.view(*x.shape[:-1], self.shape[2])

    def select(self, images: Tensor) -> "PackedMatrices":
        """The same for some images, (B') long, in their order.

        While more than half are left, all matrices stay, and `places` says where those of an image lie.
        """
        places = images if self.places is None else self.places[images]
        if 2 * len(places) > self.shape[0]:
            chosen = copy(self)
            chosen.places = places
            return chosen
        matrices = unpacked(self.packed).view(self.shape).index_select(0, places)
        return PackedMatrices(matrices, None if self.added is None else self.added.index_select(0, places), self.rows)


def pack(keys: Tensor, values: Tensor, hidden: Tensor | None, rows: int) -> tuple[PackedMatrices, PackedMatrices]:
    """What `attend` reads.

    Args:
        keys, values: (B, H, S, d).
        hidden: (B, S), True for states that nothing attends to; None: there are none.
        rows: R that is expected.
    """
    added = None
    if hidden is not None:
        added = (hidden * torch.finfo(keys.dtype).min)[:, None].expand(keys.shape[:3])
    return PackedMatrices(keys, added, rows), PackedMatrices(values.transpose(2, 3), None, rows)


def attend(query: Tensor, keys: PackedMatrices, values: PackedMatrices) -> Tensor:
    """softmax(q·k / √d) v over states that are not hidden: query (B, R, H·d) → (B, R, H·d)."""
    images, heads, _, width = keys.shape
    asked = (query * width**-0.5).transpose(0, 1).unflatten(-1, (heads, width)).contiguous()
    if keys.places is not None:
        asked = asked.new_zeros(len(asked), images, heads, width).index_copy_(1, keys.places, asked)
    seen = values(keys(asked).softmax(-1))
    if keys.places is not None:
        seen = seen.index_select(1, keys.places)
    return seen.flatten(2).transpose(0, 1)
