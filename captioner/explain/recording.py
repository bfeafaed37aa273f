"""Attention weights of one teacher-forced pass, whatever backend is on, as rows over the whole memory.

Every row is split over modalities in the way its mode allows. Where one softmax runs over all of them (concatenated,
joint), a token has its softmax mass. Elsewhere every modality has a softmax of its own, which says nothing about the
others: there a modality's share is the norm of what it adds to the stream, over the sum of these norms, after
Kobayashi et al. 2020 (arXiv 2004.10102), and its softmax is scaled to that share. Shape letters as in every file.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..model import (
    Captioner,
    Concatenated,
    CrossAttention,
    Dense,
    Gate,
    Gated,
    Hierarchical,
    Joint,
    Memory,
    Parallel,
    SelfAttention,
    Serial,
    eager_attention,
)

Weights = dict[str, Tensor]  # modality → (N, H, T, S_m)


@dataclass(frozen=True)
class Recording:
    """What one pass over N rows of T tokens attended to.

    Args:
        logits: (N, T, V).
        crossing: per layer, modality → (N, H, T, S_m); over all modalities together a row sums to 1, or to 0 where a
            layer had nothing to attend to or added nothing.
        among: per layer, attention of the caption to itself, (N, H, T, T).
    """

    logits: Tensor
    crossing: list[Weights]
    among: list[Tensor]


@dataclass
class Seen:
    """What the attention modules of a decoder did: their weights, values and outputs by module."""

    weights: dict[nn.Module, Tensor]  # (B, H, G·T, S); self-attention (N, H, T, T)
    values: dict[nn.Module, Tensor]  # (B, H, S, d)
    outputs: dict[nn.Module, Tensor]  # (N, T, D)


def record(model: Captioner, ids: Tensor, memory: Memory) -> Recording:
    """Run the decoder over ids (N, T) and a memory of B rows, N = B·G; ids are padded on the right, if at all."""
    with _watching(model.decoder) as seen:
        logits = model.decode(ids, memory).logits
    crossing = []
    for block in model.decoder.blocks:
        mode = block.cross_attention
        weights = READERS[type(mode)](mode, seen, memory)
        crossing.append({name: _unfold(own, ids) for name, own in weights.items()})
    among = [seen.weights[block.self_attention] for block in model.decoder.blocks]
    return Recording(logits, crossing, among)


@contextmanager
def _watching(decoder: nn.Module) -> Iterator[Seen]:
    """While open, every attention of the decoder leaves its weights; what it computes stays the same."""
    seen, hooks = Seen({}, {}, {}), []
    crossing = [module for module in decoder.modules() if isinstance(module, CrossAttention)]
    inward = [module for module in decoder.modules() if isinstance(module, SelfAttention)]
    for module in crossing:
        module.kind = Watched(module, seen)
    for module in inward:
        module.attend = partial(_attend, module, seen)
    for module in decoder.modules():
        if isinstance(module, CrossAttention | Gate):
            hooks.append(module.register_forward_hook(partial(_keep, seen)))
    try:
        yield seen
    finally:
        for module in crossing:
            module.kind = module.kind.kind
        for module in inward:
            del module.attend
        for hook in hooks:
            hook.remove()


def _keep(seen: Seen, module: nn.Module, inputs: tuple, output: Tensor) -> None:
    seen.outputs[module] = output


class Watched:
    """Stands for the kind of a cross-attention, computes the same from whole rows of weights, and leaves them.

    Args:
        module: whose kind it is.
        seen: where weights and values go.
    """

    def __init__(self, module: CrossAttention, seen: Seen):
        self.kind, self.module, self.seen = module.kind, module, seen
        self.features = module.kind.features

    def hold(self, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Both as they are."""
        return keys, values

    def attend(self, query: Tensor, held: tuple[Tensor, Tensor], mask: Tensor, dense: Dense) -> Tensor:
        """Query (B, H, Q, d), keys and values (B, H, S, ·), mask (B, S) → (B, Q, H, e)."""
        keys, values = held
        weights = self.kind.weights(query, keys, mask)
        self.seen.weights[self.module], self.seen.values[self.module] = weights, values
        return (weights @ values).transpose(1, 2)


def _attend(
    module: SelfAttention, seen: Seen, backend: str, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
) -> Tensor:
    """As `Attention.attend` in plain operations; a caption's own mask is causal."""
    mask = torch.ones(query.shape[2], keys.shape[2], dtype=torch.bool, device=query.device).tril()
    output, weights = eager_attention(module, query, keys, values, mask, scaling=module.head_width**-0.5)
    seen.weights[module], seen.values[module] = weights, values
    return output


def _unfold(weights: Tensor, ids: Tensor) -> Tensor:
    """(B, H, G·T, S) → (N, H, T, S): the G captions of an image become rows again."""
    rows, tokens = ids.shape
    return weights.unflatten(2, (-1, tokens)).transpose(1, 2).reshape(rows, weights.shape[1], tokens, -1)


def _mass(names: Sequence[str], weights: Tensor, memory: Memory) -> Weights:
    """One softmax over all modalities, cut into theirs."""
    sizes = [memory.states[name].shape[1] for name in names]
    return dict(zip(names, weights.split(sizes, dim=-1), strict=True))


def _concatenated(mode: Concatenated, seen: Seen, memory: Memory) -> Weights:
    present = [name for name in mode.order if name in memory.states]
    return _mass(present, seen.weights[mode.attention], memory)


def _joint(mode: Joint, seen: Seen, memory: Memory) -> Weights:
    names = mode.present(memory)
    return _mass(names, seen.weights[mode.attentions[names[0]]], memory)


def _branches(mode: Serial | Parallel, seen: Seen, memory: Memory) -> Weights:
    return _by_norm(mode, seen, {name: seen.outputs[mode.attentions[name]] for name in mode.present(memory)})


def _gated(mode: Gated, seen: Seen, memory: Memory) -> Weights:
    """What comes through the gates; modalities without one as in `_branches`."""
    ends = {**mode.attentions, **mode.gates}
    return _by_norm(mode, seen, {name: seen.outputs[ends[name]] for name in mode.present(memory)})


def _hierarchical(mode: Hierarchical, seen: Seen, memory: Memory) -> Weights:
    """The second attention's output is a sum over modalities: α_m v_m W_O of each is its contribution."""
    above, names = mode.over_modalities, mode.present(memory)
    weights, values = seen.weights[above], seen.values[above]  # (N·T, H, 1, M), (N·T, H, M, d)
    parts = weights.transpose(2, 3) * values  # (N·T, H, M, d)
    added = F.linear(parts.transpose(1, 2).flatten(2), above.output.weight)  # (N·T, M, D)
    shape = seen.outputs[mode.attentions[names[0]]].shape
    return _by_norm(mode, seen, {name: added[:, i].reshape(shape) for i, name in enumerate(names)})


def _by_norm(mode: nn.Module, seen: Seen, added: dict[str, Tensor]) -> Weights:
    """Scale the softmax of each modality to its share of ‖what it added‖, a number per row and token."""
    norms = {name: own.norm(dim=-1) for name, own in added.items()}  # (N, T)
    total = sum(norms.values())
    total = total.masked_fill(total == 0, 1.0)
    scaled = {}
    for name, norm in norms.items():
        weights = seen.weights[mode.attentions[name]]  # (B, H, G·T, S_m)
        scaled[name] = weights * (norm / total).reshape(weights.shape[0], 1, -1, 1)
    return scaled


READERS: dict[type, Callable[[nn.Module, Seen, Memory], Weights]] = {
    Concatenated: _concatenated,
    Joint: _joint,
    Serial: _branches,
    Parallel: _branches,
    Gated: _gated,
    Hierarchical: _hierarchical,
}


def rollout(recording: Recording) -> Weights:
    """How much of each memory token reaches each row through all layers: modality → (N, T, S_m).

    Attention rollout (Abnar and Zuidema 2020, arXiv 2005.00928): heads averaged, half of every sub-layer's result its
    residual. Memory tokens are the leaves; what the encoders mixed before is not undone. Rows sum to 1 over all
    modalities, or to 0 where nothing was attended to.
    """
    reached: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
    for among, crossing in zip(recording.among, recording.crossing, strict=True):
        inward = among.mean(dim=1)  # (N, T, T)
        for name, weights in crossing.items():
            held = reached[name]
            held = held if held.ndim == 0 else (held + inward @ held) / 2
            reached[name] = (held + weights.mean(dim=1)) / 2
    total = sum(part.sum(dim=-1, keepdim=True) for part in reached.values())
    total = total.masked_fill(total == 0, 1.0)
    return {name: part / total for name, part in reached.items()}
