"""How queries meet the keys and values of a memory: softmax, block-sparse top-k, or linear in feature maps.

A kind is a class with the signature of all others in `KINDS`. It has no parameters: projections are the same for all,
so a trained captioner can change its kind. Knows nothing about modalities, modes or caches. Shape letters: B, S, H as
in every file; Q = G·T queries of an image; d, the width of a head (of values e); n blocks of s tokens.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from .selection import largest

BLOCKS = 8  # whose means are compared together

KeyValue = tuple[Tensor, Tensor]
"""What a kind keeps of keys and values while captions are written: two (B, H, ·, ·)."""
Dense = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Softmax attention on the backend that is on: query, keys, values and mask (B, S) → (B, Q, H, e)."""


class Kind(Protocol):
    """What every kind can do.

    Args:
        scale: what scores are multiplied by, 1/√d.
        options: those of the kind, in `CaptionerConfig.memory`.
    """

    def __init__(self, scale: float, **options: int): ...

    def features(self, x: Tensor) -> Tensor:
        """What queries and keys (B, H, ·, d) become before they meet."""

    def key_value(self, keys: Tensor, values: Tensor, mask: Tensor) -> KeyValue:
        """What is kept of keys (B, H, S, d) and values (B, H, S, e)."""

    def attend(self, query: Tensor, key_value: KeyValue, mask: Tensor, dense: Dense) -> Tensor:
        """Query (B, H, Q, d), what is kept, mask (B, S) → (B, Q, H, e), by `dense` where softmax over all is meant.

        A row with nothing to attend to is 0, with finite gradients.
        """

    def weights(self, query: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """Query (B, H, Q, d), keys (B, H, S, d), mask (B, S) → (B, H, Q, S): values' shares of each result."""


class Softmax:
    """softmax(q·k / √d) v over the whole memory."""

    def __init__(self, scale: float):
        self.scale = scale

    def features(self, x: Tensor) -> Tensor:
        """As they are."""
        return x

    def key_value(self, keys: Tensor, values: Tensor, mask: Tensor) -> KeyValue:
        """Both as they are."""
        return keys, values

    def attend(self, query: Tensor, key_value: KeyValue, mask: Tensor, dense: Dense) -> Tensor:
        """On the backend."""
        return dense(query, *key_value, mask)

    def weights(self, query: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """The softmax itself."""
        return _softmax(query @ keys.transpose(-1, -2) * self.scale, mask[:, None, None])


class TopK(Softmax):
    """Each query and head attends, by softmax, to the `blocks` blocks whose mean key it scores highest.

    Tokens that may not be attended to are left out before blocks are made, so no result depends on padding. With no
    more blocks than `blocks` this is softmax attention. Nearest relative: the blocks of MoBA (arXiv 2502.13189).
    """

    def __init__(self, scale: float, block_size: int, blocks: int):
        super().__init__(scale)
        self.size, self.count = block_size, blocks

    def key_value(self, keys: Tensor, values: Tensor, mask: Tensor) -> KeyValue:
        """Keys of each block turned, (B, H, n·d, s); and the means of keys above the values, (B, H, n + n·s, d)."""
        tail = -mask.shape[1] % self.size
        order = F.pad((~mask).long().argsort(dim=1, stable=True), (0, tail))
        present = torch.arange(order.shape[1], device=mask.device) < mask.sum(dim=1, keepdim=True)
        images = torch.arange(len(mask), device=mask.device)[:, None]
        blocks, values = (
            x.transpose(1, 2)[images, order].masked_fill_(~present[:, :, None, None], 0.0).transpose(1, 2)
            for x in (keys, values)
        )  # (B, H, n·s, d)
        blocks = blocks.unflatten(2, (-1, self.size))
        means = blocks.sum(dim=3) / self._filled(mask)[:, None, :, None]
        return blocks.transpose(3, 4).flatten(2, 3), torch.cat([means, values], dim=2)

    def _filled(self, mask: Tensor) -> Tensor:
        """Tokens of each block that may be attended to, at least 1: (B, n)."""
        starts = torch.arange(0, mask.shape[1], self.size, device=mask.device)
        return (mask.sum(dim=1, keepdim=True) - starts).clamp(1, self.size)

    def attend(self, query: Tensor, key_value: KeyValue, mask: Tensor, dense: Dense) -> Tensor:
        """Score means, take the best blocks of each query, attend to their tokens.

        Both products with chosen blocks are weighted sums of rows, so no block is copied for a query: scores of a
        block are the sum over d of its turned keys' rows, weighted by the query.
        """
        keys, rows = key_value
        count, places = -(-mask.shape[1] // self.size), torch.arange(self.size, device=mask.device)
        means, values = rows.split([count, rows.shape[2] - count], dim=2)
        if count <= self.count:
            keys = keys.unflatten(2, (count, -1)).transpose(3, 4).flatten(2, 3)
            present = torch.arange(keys.shape[2], device=mask.device) < mask.sum(dim=1, keepdim=True)
            return dense(query, keys, values, present)
        chosen = self._choose(query, means, mask)[..., None]  # (B, H, Q, k, 1)
        present = chosen * self.size + places < mask.sum(dim=1)[:, None, None, None, None]
        of_image = torch.arange(keys.shape[0] * keys.shape[1], device=mask.device).view(*keys.shape[:2], 1, 1, 1)
        width = torch.arange(query.shape[3], device=mask.device)
        scores = _weighted_rows(
            keys, (of_image * count + chosen) * len(width) + width, query[:, :, :, None].expand(*chosen.shape[:4], -1)
        )
        weights = _softmax(scores.flatten(3) * self.scale, present.flatten(3))
        picked = of_image * rows.shape[2] + count + chosen * self.size + places
        return _weighted_rows(rows, picked.flatten(3), weights).transpose(1, 2)

    def _choose(self, query: Tensor, means: Tensor, mask: Tensor) -> Tensor:
        """The best blocks of each query, (B, H, Q, k); empty ones come last."""
        starts = torch.arange(0, mask.shape[1], self.size, device=mask.device)
        empty = starts >= mask.sum(dim=1, keepdim=True)
        scores = query.detach() @ means.detach().transpose(-1, -2)
        scores = scores.masked_fill(empty[:, None, None], -torch.inf)
        return largest(scores, min(self.count, len(starts)), BLOCKS)[1]

    def weights(self, query: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """The softmax over the chosen blocks, 0 elsewhere."""
        block = (mask.long().cumsum(dim=1) - 1).clamp(min=0) // self.size  # of each token, (B, S)
        member = F.one_hot(block, -(-mask.shape[1] // self.size)) * mask[..., None]  # (B, S, n)
        means = member.transpose(1, 2)[:, None].to(keys) @ keys / self._filled(mask)[:, None, :, None]
        chosen = self._choose(query, means, mask)
        taken = torch.zeros(*query.shape[:3], means.shape[2], device=mask.device).scatter(3, chosen, 1.0)
        allowed = taken @ member.transpose(1, 2)[:, None].float() > 0
        return _softmax(query @ keys.transpose(-1, -2) * self.scale, allowed)


class Linear:
    """φ(q)·Σ φ(k) vᵀ / φ(q)·Σ φ(k): the sums are all that is kept, whatever the length of the memory.

    Linear attention (Katharopoulos et al. 2020, arXiv 2006.16236) with φ(x) = softmax([x, −x]), the feature map of
    Hedgehog (Zhang et al. 2024, arXiv 2402.04347) with its linear layer left to the projections.
    """

    def __init__(self, scale: float):
        self.scale = scale

    def features(self, x: Tensor) -> Tensor:
        """φ: (…, d) → (…, 2·d), above 0."""
        return torch.cat([x, -x], dim=-1).softmax(dim=-1)

    def key_value(self, keys: Tensor, values: Tensor, mask: Tensor) -> KeyValue:
        """Σ φ(k) vᵀ (B, H, 2·d, e) and Σ φ(k) (B, H, 2·d, 1)."""
        keys = keys.masked_fill(~mask[:, None, :, None], 0.0)
        values = values.masked_fill(~mask[:, None, :, None], 0.0)
        return keys.transpose(-1, -2) @ values, keys.sum(dim=2).unsqueeze(-1)

    def attend(self, query: Tensor, key_value: KeyValue, mask: Tensor, dense: Dense) -> Tensor:
        """Two products with what is kept."""
        state, total = key_value
        weight = query @ total
        return (query @ state / weight.masked_fill(weight == 0, 1.0)).transpose(1, 2)

    def weights(self, query: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """φ(q)·φ(k), rows summing to 1."""
        products = query @ keys.transpose(-1, -2) * mask[:, None, None]
        total = products.sum(dim=-1, keepdim=True)
        return products / total.masked_fill(total == 0, 1.0)


def _softmax(scores: Tensor, allowed: Tensor) -> Tensor:
    """Softmax over the last axis where allowed, 0 elsewhere; all 0 with finite gradients where nothing is."""
    precise = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(dim=-1, dtype=precise)
    return weights.to(scores.dtype) * allowed


def _weighted_rows(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Σ weight · row: table (…, width), numbers of rows (…, n) over all of it, weights (…, n) → (…, width)."""
    summed = F.embedding_bag(
        rows.flatten(0, -2), table.flatten(0, -2), mode="sum", per_sample_weights=weights.flatten(0, -2)
    )
    return summed.view(*rows.shape[:-1], -1)


KINDS: dict[str, type[Kind]] = {"softmax": Softmax, "topk": TopK, "linear": Linear}
