"""Attention weights of one teacher-forced pass, whatever backend is on, as rows over the whole memory.

How a row is split over modalities is for the conditioning mode to say: see `model/recorded.py`. Shape letters as in
every file.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..model import (
    Captioner,
    CrossAttention,
    Dense,
    Gate,
    KeyValue,
    Memory,
    Recorded,
    SelfAttention,
    Weights,
    eager_attention,
)


@dataclass(frozen=True)
class Recording:
    """What one pass over N rows of T tokens attended to.

    Args:
        logits: (N, T, V).
        cross_attention: per layer, modality → (N, H, T, S_m); over all modalities together a row sums to 1, or to 0
            where a layer had nothing to attend to or added nothing.
        self_attention: per layer, attention of the caption to itself, (N, H, T, T).
    """

    logits: Tensor
    cross_attention: list[Weights]
    self_attention: list[Tensor]


def record(model: Captioner, ids: Tensor, memory: Memory) -> Recording:
    """Run the decoder over ids (N, T) and a memory of B rows, N = B·G; ids are padded on the right, if at all."""
    with _recording(model.decoder) as recorded:
        logits = model.decode(ids, memory).logits
    blocks = model.decoder.blocks
    attributed = [block.cross_attention.attributed(recorded, memory) for block in blocks]
    return Recording(
        logits,
        [{name: _unfold(own, ids) for name, own in weights.items()} for weights in attributed],
        [recorded.weights[block.self_attention] for block in blocks],
    )


@contextmanager
def _recording(decoder: nn.Module) -> Iterator[Recorded]:
    """While open, every attention of the decoder leaves its weights; what it computes stays the same."""
    recorded, hooks = Recorded(), []
    cross_attentions = [module for module in decoder.modules() if isinstance(module, CrossAttention)]
    self_attentions = [module for module in decoder.modules() if isinstance(module, SelfAttention)]
    for module in cross_attentions:
        module.kind = RecordingKind(module, recorded)
    for module in self_attentions:
        module.attend = partial(_attend, module, recorded)
    for module in decoder.modules():
        if isinstance(module, CrossAttention | Gate):
            hooks.append(module.register_forward_hook(partial(_keep, recorded)))
    try:
        yield recorded
    finally:
        for module in cross_attentions:
            module.kind = module.kind.kind
        for module in self_attentions:
            del module.attend
        for hook in hooks:
            hook.remove()


def _keep(recorded: Recorded, module: nn.Module, inputs: tuple, output: Tensor) -> None:
    recorded.outputs[module] = output


class RecordingKind:
    """Stands for the kind of a cross-attention, computes the same from whole rows of weights, and leaves them.

    Args:
        module: whose kind it is.
        recorded: where weights and values go.
    """

    def __init__(self, module: CrossAttention, recorded: Recorded):
        self.kind, self.module, self.recorded = module.kind, module, recorded
        self.features = module.kind.features

    def key_value(self, keys: Tensor, values: Tensor, mask: Tensor) -> KeyValue:
        """Both as they are."""
        return keys, values

    def attend(self, query: Tensor, key_value: KeyValue, mask: Tensor, dense: Dense) -> Tensor:
        """Query (B, H, Q, d), keys and values (B, H, S, ·), mask (B, S) → (B, Q, H, e)."""
        keys, values = key_value
        weights = self.kind.weights(query, keys, mask)
        self.recorded.weights[self.module], self.recorded.values[self.module] = weights, values
        return (weights @ values).transpose(1, 2)


def _attend(
    module: SelfAttention,
    recorded: Recorded,
    backend: str,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
) -> Tensor:
    """As `Attention.attend` in plain operations; a caption's own mask is causal."""
    mask = torch.ones(query.shape[2], keys.shape[2], dtype=torch.bool, device=query.device).tril()
    output, weights = eager_attention(module, query, keys, values, mask, scaling=module.head_width**-0.5)
    recorded.weights[module], recorded.values[module] = weights, values
    return output


def _unfold(weights: Tensor, ids: Tensor) -> Tensor:
    """(B, H, G·T, S) → (N, H, T, S): the G captions of an image become rows again."""
    rows, tokens = ids.shape
    return weights.unflatten(2, (-1, tokens)).transpose(1, 2).reshape(rows, weights.shape[1], tokens, -1)


def rollout(recording: Recording) -> Weights:
    """How much of each memory token reaches each row through all layers: modality → (N, T, S_m).

    Attention rollout (Abnar and Zuidema 2020, arXiv 2005.00928): heads averaged, half of every sub-layer's result its
    residual. Memory tokens are the leaves; what the encoders mixed before is not undone. Rows sum to 1 over all
    modalities, or to 0 where nothing was attended to.
    """
    reached: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
    for inward, outward in zip(recording.self_attention, recording.cross_attention, strict=True):
        inward = inward.mean(dim=1)  # (N, T, T)
        for name, weights in outward.items():
            before = reached[name]
            before = before if before.ndim == 0 else (before + inward @ before) / 2
            reached[name] = (before + weights.mean(dim=1)) / 2
    total = sum(part.sum(dim=-1, keepdim=True) for part in reached.values())
    total = total.masked_fill(total == 0, 1.0)
    return {name: part / total for name, part in reached.items()}
