"""Multi-head attention: projections, backends, and grouped queries over a shared memory.

Knows one memory at a time, nothing about modalities and how they are combined: that is in `modes.py`. Shape letters:
B, G, N = B·G, T, S, D, H as in every file; d, the width of a head.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import EncoderDecoderCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .attention_kinds import KINDS, KeyValue
from .configuration import DecoderConfig


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float = 1.0,
    **kwargs: object,
) -> tuple[Tensor, Tensor]:
    """softmax(q·k / √d) v in plain operations, the only backend that also returns its weights.

    Masked scores get the dtype's lowest number before the softmax and exactly 0 after it, so a row with nothing to
    attend to is 0 with finite gradients. Keys and values may have fewer heads, each shared by a group of queries.
    Returns (N, T, H, d) and the weights (N, H, T, S).
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    if attention_mask is not None:
        weights = weights * attention_mask
    return (F.dropout(weights, dropout, module.training) @ value).transpose(1, 2), weights


def _additive(mask: Tensor, query: Tensor) -> Tensor:
    """The form that flex attention takes: a number to add, one row per query; (B, 1, Q, S)."""
    added = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, torch.finfo(query.dtype).min)
    return added.expand(-1, -1, query.shape[2], -1)


# Backend → what serves cross-attention there, and the form of its mask. transformers' flash path un-pads queries by
# the mask of the keys, which is wrong where the two differ in length, so SDPA (with its own flash kernels) steps in.
CROSS_BACKENDS = {
    "eager": ("eager", lambda mask, query: mask),
    "sdpa": ("sdpa", lambda mask, query: mask),
    "flex_attention": ("flex_attention", _additive),
}


class Attention(nn.Module):
    """The four projections and the backend that attends.

    Args:
        config: heads, their width d, width D and the attention backend.
        memory_width: width of what is attended to; D for self-attention.
        key_value_heads: heads of keys and values; a divisor of H.
        bias: of queries, keys and values.
        output_bias: of the output.
    """

    is_causal = False

    def __init__(
        self,
        config: DecoderConfig,
        memory_width: int,
        key_value_heads: int,
        bias: bool = True,
        output_bias: bool = True,
    ):
        super().__init__()
        width, inner = config.hidden_size, config.num_heads * config.head_dim
        self.config = config
        self.head_width = config.head_dim
        self.num_key_value_groups = config.num_heads // key_value_heads
        self.query = nn.Linear(width, inner, bias=bias)
        self.key = nn.Linear(memory_width, key_value_heads * config.head_dim, bias=bias)
        self.value = nn.Linear(memory_width, key_value_heads * config.head_dim, bias=bias)
        self.output = nn.Linear(inner, width, bias=output_bias)

    def heads(self, x: Tensor) -> Tensor:
        """(N, T, H·d) → (N, H, T, d)."""
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)

    def keys_and_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, S, D_m) → keys and values (B, key and value heads, S, d)."""
        return self.heads(self.key(states)), self.heads(self.value(states))

    def attend(self, backend: str, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Scores scaled by 1/√d, mask, softmax, sum: (N, H, T, ·) each → (N, T, H, ·)."""
        function = ALL_ATTENTION_FUNCTIONS.get_interface(backend, eager_attention)
        return function(self, query, keys, values, mask, dropout=0.0, scaling=self.head_width**-0.5)[0]


class CrossAttention(Attention):
    """Attention of N = B·G caption rows to a memory of B rows.

    The G rows of an image are folded into its query axis, so the memory's keys and values are projected once per
    image, cached with B rows, and never expanded or reordered. Every head has keys and values of its own, and every
    projection a bias, whatever self-attention has.
    """

    def __init__(self, config: DecoderConfig, memory_width: int, entry: int, modality: str | None = None):
        super().__init__(config, memory_width, config.num_heads)
        self.entry = entry
        options = dict(config.memory_attention.get(modality, {"kind": "softmax"}))
        self.kind = KINDS[options.pop("kind")](self.head_width**-0.5, **options)

    def forward(self, x: Tensor, states: Tensor, mask: Tensor, cache: EncoderDecoderCache | None) -> Tensor:
        """x (N, T, D), states (B, S, D_m), mask (B, S) → (N, T, D); rows with nothing to attend to are exactly 0."""
        key_value = cached(cache, self.entry, lambda: self.kind.key_value(*self.keys_and_values(states), mask))
        folded = x.reshape(mask.shape[0], -1, x.shape[-1])  # (B, G·T, D)
        attended = self.kind.attend(self.queries(folded), key_value, mask, self.dense)
        return zero_absent(self.output(attended.flatten(2)), mask).reshape(x.shape)

    def queries(self, x: Tensor) -> Tensor:
        """(B, G·T, D) → (B, H, G·T, ·), as they meet keys."""
        return self.kind.features(self.heads(self.query(x)))

    def keys_and_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, S, D_m) → keys, as they meet queries, and values: (B, H, S, ·)."""
        keys, values = super().keys_and_values(states)
        return self.kind.features(keys), values

    def dense(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Softmax with a mask over the memory only: query (B, H, G·T, ·), mask (B, S) → (B, G·T, H, ·)."""
        backend, form = CROSS_BACKENDS.get(self.config._attn_implementation, CROSS_BACKENDS["sdpa"])
        return self.attend(backend, query, keys, values, form(mask[:, None, None, :], query))


def cached(cache: EncoderDecoderCache | None, entry: int, project: Callable[[], KeyValue]) -> KeyValue:
    """Keys and values of the memory, two (B, H, ·, ·): made on the first step, read from `entry` afterwards."""
    if cache is None:
        return project()
    if not cache.is_updated.get(entry):
        cache.cross_attention_cache.update(*project(), entry)
        cache.is_updated[entry] = True
    layer = cache.cross_attention_cache.layers[entry]
    return layer.keys, layer.values


def zero_absent(y: Tensor, mask: Tensor) -> Tensor:
    """Zero the rows of y (B, ·, D) whose mask (B, S) allows nothing; after the output projection, whose bias leaks."""
    return y.masked_fill(~mask.any(dim=-1)[:, None, None], 0.0)
