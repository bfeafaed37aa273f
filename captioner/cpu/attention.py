"""Attention as a search on a CPU runs it fastest: larger products, and no mask where nothing is masked.

Each layer computes what the one that it is made from computes, with the same parameters. Knows no layouts, no modes
and no searches. Shape letters: B, G, N, T, S, D, H as in every file; d, the width of a head.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import EncoderDecoderCache

from ..model import CrossAttention, Rotation, SelfAttention, cached, rotate, zero_absent
from .packed_key_value import PackedMatrices, attend, pack

MANY = 2**18  # numbers in all keys of a layer
KeyValue = tuple[Tensor, Tensor] | tuple[PackedMatrices, PackedMatrices]


class FastSelfAttention(nn.Module):
    """`SelfAttention` on SDPA itself.

    Args:
        attention: whose layers it calls.
        merged: one layer in the place of those of queries, keys and values; None: they stay three.
    """

    def __init__(self, attention: SelfAttention, merged: nn.Module | None = None):
        super().__init__()
        self.attention, self.merged = attention, merged
        self.layer, self.shared_keys = attention.layer, attention.num_key_value_groups > 1
        projections = (attention.query, attention.key, attention.value)
        self.sizes = None if merged is None else [part.out_features for part in projections]

    def forward(
        self, x: Tensor, mask: Tensor | None, cache: EncoderDecoderCache | None = None, rotation: Rotation | None = None
    ) -> Tensor:
        """x (N, T, D), mask (N, 1, T, S) or None: causal → (N, T, D)."""
        attention = self.attention
        query, keys, values = map(attention.heads, self._project(x))
        query, keys = attention.query_norm(query), attention.key_norm(keys)
        if rotation is not None:
            query, keys = rotate(query, rotation), rotate(keys, rotation)
        if cache is not None:
            keys, values = cache.self_attention_cache.update(keys, values, self.layer)
        return attention.output(self._attend_to(query, keys, values, mask).transpose(1, 2).flatten(2))

    def _attend_to(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """(N, H, T, d) each → (N, H, T, d); several captions of an image in plain products, which SDPA is slower at."""
        causal, one = mask is None and query.shape[2] > 1, query.shape[2] == 1
        if self.shared_keys or causal or one or mask.dtype == torch.bool:
            return F.scaled_dot_product_attention(
                query, keys, values, mask, is_causal=causal, enable_gqa=self.shared_keys
            )
        return _products(query, keys.transpose(2, 3), values, mask)

    def _project(self, x: Tensor) -> Sequence[Tensor]:
        attention = self.attention
        if self.merged is None:
            return attention.query(x), attention.key(x), attention.value(x)
        return self.merged(x).split(self.sizes, dim=-1)


def _products(query: Tensor, turned: Tensor, values: Tensor, added: Tensor | None) -> Tensor:
    """softmax(q·k / √d + added) v: query (N, H, T, d), turned keys (N, H, d, S), values (N, H, S, d) → (N, H, T, d).

    `added` has or broadcasts to the shape (N, H, T, S).
    """
    scale = query.shape[-1] ** -0.5
    asked, keys = query.flatten(0, 1), turned.flatten(0, 1)
    if added is None:
        scores = torch.bmm(asked * scale, keys)
    else:
        every = added.expand(-1, query.shape[1], -1, -1).flatten(0, 1)
        scores = torch.baddbmm(every, asked, keys, alpha=scale)
    return scores.softmax(-1).bmm(values.flatten(0, 1)).view(query.shape)


class FastCrossAttention(nn.Module):
    """`CrossAttention` by softmax in plain products, and without keys and values where they are large.

    Several queries meet many keys fastest in oneDNN's blocks, others where keys lie turned, (B, H, d, S). Without keys
    and values queries meet the states themselves, which is more work for every query and keeps nothing:
    q·(W_k s + b_k) = (W_kᵀ q)·s + q·b_k, whose last term is the same for all s, so the softmax does not see it;
    Σ p (W_v s + b_v) = W_v Σ p s + b_v, since the shares p sum to 1.

    Args:
        attention: whose layers it calls; those of keys and values have a `weight` and a `bias` and only multiply.
        limit: bytes of keys and values that may be kept.
        captions: of an image, in most steps.
    """

    def __init__(self, attention: CrossAttention, limit: int, captions: int):
        super().__init__()
        self.attention, self.limit, self.captions = attention, limit, captions

    def forward(self, x: Tensor, states: Tensor, mask: Tensor, cache: EncoderDecoderCache | None) -> Tensor:
        """x (N, T, D), states (B, S, D_m), mask (B, S) → (N, T, D); rows with nothing to attend to are exactly 0."""
        entry, hidden = self.attention.entry, None if mask.all() else ~mask
        kept = cache is not None and cache.is_updated.get(entry)
        if kept or self._bytes(states) <= self.limit:
            folded = x.reshape(len(states), -1, x.shape[-1])
            y = self._attend_to(folded, *cached(cache, entry, lambda: self._key_value(states, hidden)), hidden)
        else:
            y = self._absorb(x, states, hidden)
        return (y if hidden is None else zero_absent(y, mask)).reshape(x.shape)

    def _bytes(self, states: Tensor) -> int:
        """Of keys and values."""
        return 2 * states[..., 0].numel() * self.attention.key.out_features * states.element_size()

    def _key_value(self, states: Tensor, hidden: Tensor | None) -> KeyValue:
        """States (B, S, D_m) → both packed, or keys (B, H, d, S) and values (B, H, S, d)."""
        keys, values = self.attention.keys_and_values(states)
        if self.captions > 1 and keys.numel() >= MANY:
            return pack(keys, values, hidden, self.captions)
        return keys.transpose(2, 3).contiguous(), values.contiguous()

    def _attend_to(
        self, x: Tensor, keys: Tensor | PackedMatrices, values: Tensor | PackedMatrices, hidden: Tensor | None
    ) -> Tensor:
        """x (B, G·T, D) → (B, G·T, D)."""
        attention = self.attention
        query = attention.query(x)
        if isinstance(keys, PackedMatrices):
            return attention.output(attend(query, keys, values))
        added = None if hidden is None else hidden[:, None, None] * torch.finfo(x.dtype).min
        return attention.output(_products(attention.heads(query), keys, values, added).transpose(1, 2).flatten(2))

    def _absorb(self, x: Tensor, states: Tensor, hidden: Tensor | None) -> Tensor:
        """The same without keys and values."""
        attention, by_head = self.attention, (-1, self.attention.head_width)
        key, value = (part.weight.unflatten(0, by_head) for part in (attention.key, attention.value))  # (H, d, D_m)
        query = attention.query(x).flatten(0, 1).unflatten(-1, by_head).transpose(0, 1)  # (H, N·T, d)
        asked = torch.bmm(query * attention.head_width**-0.5, key)
        asked = asked.unflatten(1, (len(states), -1)).transpose(0, 1).flatten(1, 2)  # (B, H·G·T, D_m)
        scores = torch.bmm(asked, states.transpose(1, 2))
        if hidden is not None:
            scores = scores.masked_fill(hidden[:, None], torch.finfo(scores.dtype).min)
        seen = torch.bmm(scores.softmax(-1), states)
        seen = seen.unflatten(1, (len(key), -1)).transpose(0, 1).flatten(1, 2)  # (H, N·T, D_m)
        attended = torch.bmm(seen, value.transpose(1, 2)).transpose(0, 1).flatten(1)
        return attention.output(attended + attention.value.bias).view(len(states), -1, x.shape[-1])
