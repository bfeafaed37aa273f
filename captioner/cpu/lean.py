"""The decoder's modules as a search on a CPU runs them: larger products, and no mask where nothing is masked.

They compute what the modules they are made from compute, with the same parameters. Knows no layouts and no searches.
Shape letters: B, G, N, T, S, D, H as in every file; d, the width of a head.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import EncoderDecoderCache

from ..model import Attention, CrossAttention, Mode, Rotation, SelfAttention, Softmax, cached, rotate, zero_absent
from .blocks import Blocks, attend, in_blocks

MANY = 2**18  # numbers in all keys of a layer
Merge = Callable[[Sequence[nn.Linear]], nn.Module | None]


class LeanSelfAttention(SelfAttention):
    """`SelfAttention` on SDPA itself.

    Args:
        merge: what makes one linear map of those of queries, keys and values; None: they stay three.
    """

    def __init__(self, attention: SelfAttention, merge: Merge | None = None):
        nn.Module.__init__(self)
        vars(self).update(vars(attention))
        self.shared_keys = self.num_key_value_groups > 1
        self.sizes = [part.out_features for part in (self.query, self.key, self.value)]
        self.merged = merge((self.query, self.key, self.value)) if merge else None
        if self.merged is not None:
            del self.query, self.key, self.value

    def forward(
        self, x: Tensor, mask: Tensor | None, cache: EncoderDecoderCache | None = None, rotation: Rotation | None = None
    ) -> Tensor:
        """x (N, T, D), mask (N, 1, T, S) or None: causal → (N, T, D)."""
        query, keys, values = map(self.heads, self._project(x))
        query, keys = self.query_norm(query), self.key_norm(keys)
        if rotation is not None:
            query, keys = rotate(query, rotation), rotate(keys, rotation)
        if cache is not None:
            keys, values = cache.self_attention_cache.update(keys, values, self.layer)
        return self.output(self._attend_to(query, keys, values, mask).transpose(1, 2).flatten(2))

    def _attend_to(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """(N, H, T, d) each → (N, H, T, d); several captions of an image in plain products, which SDPA is slower at."""
        causal = mask is None and query.shape[2] > 1
        if self.shared_keys or causal or query.shape[2] == 1:
            return F.scaled_dot_product_attention(
                query, keys, values, mask, is_causal=causal, enable_gqa=self.shared_keys
            )
        return _products(query, keys.transpose(2, 3), values, mask)

    def _project(self, x: Tensor) -> Sequence[Tensor]:
        if self.merged is None:
            return self.query(x), self.key(x), self.value(x)
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


class LeanCrossAttention(CrossAttention):
    """`CrossAttention` in plain products, and without keys and values where they are large.

    Several queries meet many keys fastest in blocks, others where keys are held turned, (B, H, d, S). Without keys and
    values queries meet the states themselves, which is more work for every query and holds nothing:
    q·(W_k s + b_k) = (W_kᵀ q)·s + q·b_k, whose last term is the same for all s, so the softmax does not see it;
    Σ p (W_v s + b_v) = W_v Σ p s + b_v, since the shares p sum to 1.

    Args:
        room: bytes of keys and values that may be held.
        captions: of an image, in most steps.
    """

    def __init__(self, attention: CrossAttention, room: int, captions: int):
        nn.Module.__init__(self)
        vars(self).update(vars(attention))
        self.room, self.captions = room, captions

    def forward(self, x: Tensor, states: Tensor, mask: Tensor, cache: EncoderDecoderCache | None) -> Tensor:
        """x (N, T, D), states (B, S, D_m), mask (B, S) → (N, T, D); rows with nothing to attend to are exactly 0."""
        hidden = None if mask.all() else ~mask
        held = cache is not None and cache.is_updated.get(self.entry)
        if not held and 2 * states[..., 0].numel() * self.key.out_features * states.element_size() > self.room:
            y = self._absorb(x, states, hidden)
        else:
            folded = x.reshape(len(states), -1, x.shape[-1])
            y = self._attend_to_held(folded, *cached(cache, self.entry, lambda: self._hold(states, hidden)), hidden)
        return (y if hidden is None else zero_absent(y, mask)).reshape(x.shape)

    def _hold(self, states: Tensor, hidden: Tensor | None) -> tuple[Tensor | Blocks, Tensor | Blocks]:
        """States (B, S, D_m) → keys and values in blocks, or keys (B, H, d, S) and values (B, H, S, d)."""
        keys, values = self.keys_and_values(states)
        if self.captions > 1 and keys.numel() >= MANY:
            return in_blocks(keys, values, hidden, self.captions)
        return keys.transpose(2, 3).contiguous(), values.contiguous()

    def _attend_to_held(
        self, x: Tensor, keys: Tensor | Blocks, values: Tensor | Blocks, hidden: Tensor | None
    ) -> Tensor:
        """x (B, G·T, D) → (B, G·T, D)."""
        query = self.query(x)
        if isinstance(keys, Blocks):
            return self.output(attend(query, keys, values))
        added = None if hidden is None else hidden[:, None, None] * torch.finfo(x.dtype).min
        return self.output(_products(self.heads(query), keys, values, added).transpose(1, 2).flatten(2))

    def _absorb(self, x: Tensor, states: Tensor, hidden: Tensor | None) -> Tensor:
        """The same without keys and values."""
        by_head = (-1, self.head_width)
        key, value = (part.weight.unflatten(0, by_head) for part in (self.key, self.value))  # (H, d, D_m)
        query = self.query(x).flatten(0, 1).unflatten(-1, by_head).transpose(0, 1)  # (H, N·T, d)
        asked = torch.bmm(query * self.head_width**-0.5, key)
        asked = asked.unflatten(1, (len(states), -1)).transpose(0, 1).flatten(1, 2)  # (B, H·G·T, D_m)
        scores = torch.bmm(asked, states.transpose(1, 2))
        if hidden is not None:
            scores = scores.masked_fill(hidden[:, None], torch.finfo(scores.dtype).min)
        seen = torch.bmm(scores.softmax(-1), states)
        seen = seen.unflatten(1, (len(key), -1)).transpose(0, 1).flatten(1, 2)  # (H, N·T, D_m)
        attended = torch.bmm(seen, value.transpose(1, 2)).transpose(0, 1).flatten(1)
        return self.output(attended + self.value.bias).view(len(states), -1, x.shape[-1])


def lean(module: nn.Module, room: int, captions: int, merge: Merge | None = None) -> None:
    """Replace every attention in a module by its lean form, and dropout by nothing.

    Attention of another kind than softmax, or with adapters on its projections, stays as it is; so does what a
    mode takes apart.

    Args:
        room, captions: as of `LeanCrossAttention`.
        merge: as of `LeanSelfAttention`.
    """
    for name, part in list(module.named_children()):
        if type(part) is SelfAttention:
            setattr(module, name, LeanSelfAttention(part, merge if _plain(part) else None))
        elif type(part) is CrossAttention and type(part.kind) is Softmax and _plain(part):
            setattr(module, name, LeanCrossAttention(part, room, captions))
        elif type(part) is nn.Dropout:
            setattr(module, name, nn.Identity())
        elif not isinstance(part, Mode) or part.calls_attentions:
            lean(part, room, captions, merge)


def _plain(attention: Attention) -> bool:
    return all(type(part) is nn.Linear for part in (attention.query, attention.key, attention.value))
