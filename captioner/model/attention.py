"""Multi-head attention, grouped queries over a shared memory, and the conditioning modes.

A mode is a class with the signature of all others in `MODES`; nothing else asks which one is on, and no modality is
named here. Sources: "flat", serial, parallel and hierarchical from Libovický, Helcl and Mareček 2018
(arXiv 1811.04716), gated from Flamingo (arXiv 2204.14198). Shape letters: B, G, N = B·G, T, S, D, H as in every file;
d, the width of a head; M modalities.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import EncoderDecoderCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .attention_kinds import KINDS
from .configuration import DecoderConfig
from .layers import PreNorm, residual
from .memory import Memory


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
        held = cached(cache, self.entry, lambda: self.kind.hold(*self.keys_and_values(states), mask))
        folded = x.reshape(mask.shape[0], -1, x.shape[-1])  # (B, G·T, D)
        attended = self.kind.attend(self.queries(folded), held, mask, self.dense)
        return silence(self.output(attended.flatten(2)), mask).reshape(x.shape)

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


def cached(
    cache: EncoderDecoderCache | None, entry: int, project: Callable[[], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """What is held of the memory, two (B, H, ·, ·): made on the first step, read from `entry` afterwards."""
    if cache is None:
        return project()
    if not cache.is_updated.get(entry):
        cache.cross_attention_cache.update(*project(), entry)
        cache.is_updated[entry] = True
    layer = cache.cross_attention_cache.layers[entry]
    return layer.keys, layer.values


def silence(y: Tensor, mask: Tensor) -> Tensor:
    """Zero the rows of y (B, ·, D) whose mask (B, S) allows nothing; after the output projection, whose bias leaks."""
    return y.masked_fill(~mask.any(dim=-1)[:, None, None], 0.0)


class Gate(nn.Module):
    """tanh(g)·x with one learned number g that starts at 0."""

    def __init__(self):
        super().__init__()
        self.opening = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Scale x (any shape)."""
        return torch.tanh(self.opening) * x


class Concatenated(nn.Module):
    """x + A(LN x, [H_1; …; H_M]): one attention over every modality's states in one row."""

    def __init__(self, config: DecoderConfig, widths: dict[str, int], layer: int):
        super().__init__()
        if len(set(widths.values())) > 1:
            raise ValueError(f"concatenated memory needs one width, but the encoders give {widths}")
        self.order = list(widths)
        self.residual = residual(config)
        self.attention = CrossAttention(config, next(iter(widths.values())), layer, self.order[0])

    def forward(self, x: Tensor, memory: Memory, cache: EncoderDecoderCache | None = None) -> Tensor:
        """x (N, T, D) → (N, T, D)."""
        states, mask = memory.joined(self.order)
        return self.residual(x, lambda h: self.attention(h, states, mask, cache))


class Separate(nn.Module):
    """One cross-attention A_m per modality; what each mode below does with them is its `forward`."""

    def __init__(self, config: DecoderConfig, widths: dict[str, int], layer: int):
        super().__init__()
        first = layer * len(widths)
        self.attentions = nn.ModuleDict(
            {name: CrossAttention(config, width, first + i, name) for i, (name, width) in enumerate(widths.items())}
        )

    def present(self, memory: Memory) -> list[str]:
        """The modalities that this batch has, in the configured order."""
        return [name for name in self.attentions if name in memory.states]

    def branch(self, name: str, h: Tensor, memory: Memory, cache: EncoderDecoderCache | None) -> Tensor:
        """A_m(h, H_m): (N, T, D) → (N, T, D)."""
        return self.attentions[name](h, memory.states[name], memory.masks[name], cache)


class Serial(Separate):
    """x_i = x_{i-1} + A_i(LN_i x_{i-1}, H_i), in the configured order."""

    def __init__(self, config: DecoderConfig, widths: dict[str, int], layer: int):
        super().__init__(config, widths, layer)
        self.residuals = nn.ModuleDict({name: residual(config) for name in widths})

    def forward(self, x: Tensor, memory: Memory, cache: EncoderDecoderCache | None = None) -> Tensor:
        """x (N, T, D) → (N, T, D)."""
        for name, add in self.residuals.items():
            if name in memory.states:
                x = add(x, lambda h, name=name: self.branch(name, h, memory, cache))
            else:
                x = add(x, torch.zeros_like)
        return x


class Parallel(Separate):
    """x + Σ A_i(LN x, H_i)."""

    def __init__(self, config: DecoderConfig, widths: dict[str, int], layer: int):
        super().__init__(config, widths, layer)
        self.residual = residual(config)

    def forward(self, x: Tensor, memory: Memory, cache: EncoderDecoderCache | None = None) -> Tensor:
        """x (N, T, D) → (N, T, D)."""
        names = self.present(memory)
        return self.residual(x, lambda h: sum(self.branch(name, h, memory, cache) for name in names))


class Hierarchical(Separate):
    """x + A_h(LN x, {A_i(LN x, H_i)}_i): a second attention over the modalities' results.

    A modality that a sample lacks is masked in the second attention too.
    """

    def __init__(self, config: DecoderConfig, widths: dict[str, int], layer: int):
        super().__init__(config, widths, layer)
        self.residual = residual(config)
        self.over_modalities = CrossAttention(config, config.hidden_size, -1)

    def forward(self, x: Tensor, memory: Memory, cache: EncoderDecoderCache | None = None) -> Tensor:
        """x (N, T, D) → (N, T, D)."""
        return self.residual(x, lambda h: self._fuse(h, memory, cache))

    def _fuse(self, h: Tensor, memory: Memory, cache: EncoderDecoderCache | None) -> Tensor:
        names = self.present(memory)
        results = torch.stack([self.branch(name, h, memory, cache) for name in names], dim=2)  # (N, T, M, D)
        there = torch.stack([memory.masks[name].any(dim=-1) for name in names], dim=-1)  # (B, M)
        each_position = there.repeat_interleave(results[..., 0, 0].numel() // there.shape[0], dim=0)  # (N·T, M)
        fused = self.over_modalities(h.reshape(-1, 1, h.shape[-1]), results.flatten(0, 1), each_position, None)
        return fused.reshape(h.shape)


class Gated(Serial):
    """Serial with tanh(g_i) before each A_i, g_i starting at 0, so that a new captioner ignores its memory.

    A gated branch reads through its own norm in both block orders: only then is a closed gate the identity. The
    modalities of `config.ungated_modalities` are attended to as in `Serial`: a trained captioner keeps them as they
    were when another modality joins.
    """

    def __init__(self, config: DecoderConfig, widths: dict[str, int], layer: int):
        super().__init__(config, widths, layer)
        gated = [name for name in widths if name not in config.ungated_modalities]
        self.residuals.update({name: PreNorm(config) for name in gated})
        self.gates = nn.ModuleDict({name: Gate() for name in gated})

    def branch(self, name: str, h: Tensor, memory: Memory, cache: EncoderDecoderCache | None) -> Tensor:
        """tanh(g_m)·A_m(h, H_m): (N, T, D) → (N, T, D)."""
        attended = super().branch(name, h, memory, cache)
        return self.gates[name](attended) if name in self.gates else attended


class Joint(Separate):
    """One softmax over all modalities' scores, with queries, keys, values and outputs of each modality's own.

    Heads are M·d wide: modality i has its queries, keys and values in slice i and zeros elsewhere, so one call of any
    backend scores every state by its own modality's query and keeps the results apart. The output bias is the mean of
    the modalities', so with their projections equal this *is* `Concatenated`.
    """

    def __init__(self, config: DecoderConfig, widths: dict[str, int], layer: int):
        super().__init__(config, widths, layer)
        self.residual = residual(config)
        self.entry = layer

    def forward(self, x: Tensor, memory: Memory, cache: EncoderDecoderCache | None = None) -> Tensor:
        """x (N, T, D) → (N, T, D)."""
        names = self.present(memory)
        mask = torch.cat([memory.masks[name] for name in names], dim=1)
        kind = self.attentions[names[0]].kind
        held = cached(cache, self.entry, lambda: kind.hold(*self._keys_and_values(names, memory), mask))
        return self.residual(x, lambda h: self._attend(names, h, held, mask))

    def _keys_and_values(self, names: Sequence[str], memory: Memory) -> tuple[Tensor, Tensor]:
        """Each modality's (B, H, S_m, d) moved into its slice: keys and values (B, H, S, M·d)."""
        pairs = [self.attentions[name].keys_and_values(memory.states[name]) for name in names]
        keys, values = (
            torch.cat([_into_slice(part, i, len(names)) for i, part in enumerate(parts)], dim=2)
            for parts in zip(*pairs, strict=True)
        )
        return keys, values

    def _attend(self, names: Sequence[str], h: Tensor, held: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        parts = [self.attentions[name] for name in names]
        folded = h.reshape(mask.shape[0], -1, h.shape[-1])  # (B, G·T, D)
        query = torch.cat([part.queries(folded) for part in parts], dim=-1)
        attended = parts[0].kind.attend(query, held, mask, parts[0].dense)  # (B, G·T, H, M·d)
        split = attended.unflatten(-1, (len(parts), -1)).unbind(-2)
        bias = torch.stack([attention.output.bias for attention in self.attentions.values()]).mean(dim=0)
        y = sum(F.linear(own.flatten(2), part.output.weight) for own, part in zip(split, parts, strict=True))
        return silence(y + bias, mask).reshape(h.shape)


def _into_slice(x: Tensor, i: int, count: int) -> Tensor:
    """(…, d) → (…, count·d) with x in slice i and zeros elsewhere."""
    width = x.shape[-1]
    return F.pad(x, (i * width, (count - 1 - i) * width))


MODES = {
    ("concatenated", None): Concatenated,
    ("separate", "serial"): Serial,
    ("separate", "parallel"): Parallel,
    ("separate", "hierarchical"): Hierarchical,
    ("separate", "gated"): Gated,
    ("separate", "joint"): Joint,
}
