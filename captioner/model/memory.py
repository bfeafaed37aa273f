"""`Memory`: what the decoder may attend to, states and masks per modality; and the cache of its keys and values.

Knows nothing about where states come from or how they are attended to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache
from transformers.modeling_outputs import ModelOutput


class Joined(NamedTuple):
    """Several modalities as one memory, and what it was made of.

    Args:
        states: (B, S, D).
        mask: (B, S).
        order: the modalities that were asked for.
        parts: name, states and mask of each, None where it was not here.
        differentiable: whether gradients flow through it to its parts.
    """

    states: Tensor
    mask: Tensor
    order: Sequence[str]
    parts: list[tuple[str, Tensor | None, Tensor | None]]
    differentiable: bool

    def stands_for(self, memory: "Memory", order: Sequence[str]) -> bool:
        """Whether joining this memory would give it again; a plain loop, since every layer asks at every step."""
        if self.order != order or self.differentiable != torch.is_grad_enabled():
            return False
        for name, states, mask in self.parts:
            if memory.states.get(name) is not states or memory.masks.get(name) is not mask:
                return False
        return True


@dataclass
class Memory(ModelOutput):
    """Encoded images and contexts of B samples, never repeated per beam or per reference.

    Args:
        states: modality → (B, S_m, D_m).
        masks: modality → (B, S_m) bool, True where the decoder may attend. A modality that a sample lacks is a row
            that is False throughout; one that the whole batch lacks may be a missing key.
    """

    states: dict[str, Tensor] | None = None
    masks: dict[str, Tensor] | None = None

    @property
    def last_hidden_state(self) -> Tensor:
        """The first modality's states: `generate` reads the batch size from this name."""
        return next(iter(self.states.values()))

    def to_tuple(self) -> tuple:
        """A tensor comes first, as in every encoder output of transformers."""
        return self.last_hidden_state, self.states, self.masks

    @property
    def batch_size(self) -> int:
        """B, the number of samples."""
        return self.last_hidden_state.shape[0]

    def joined(self, order: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Stack the modalities of `order` that are here into one memory: (B, S, D) states and (B, S) mask.

        Kept until one of its tensors is replaced by another, or gradients begin or cease to be recorded; a change
        inside a tensor is not noticed.
        """
        joined = vars(self).get("_joined")
        if joined is None or not joined.stands_for(self, order):
            parts = [(name, self.states.get(name), self.masks.get(name)) for name in order]
            _, states, masks = zip(*(part for part in parts if part[1] is not None), strict=True)
            states, mask = torch.cat(states, dim=1), torch.cat(masks, dim=1)
            joined = self._joined = Joined(states, mask, order, parts, torch.is_grad_enabled())
        return joined.states, joined.mask

    def without(self, modality: str) -> "Memory":
        """The same memory with one modality hidden in every sample: an ablation."""
        hidden = {name: mask & (name != modality) for name, mask in self.masks.items()}
        return Memory(states=dict(self.states), masks=hidden)

    def select(self, rows: Tensor) -> "Memory":
        """The samples at `rows` (a long or bool tensor), in that order."""
        return Memory(
            states={name: states[rows] for name, states in self.states.items()},
            masks={name: mask[rows] for name, mask in self.masks.items()},
        )


class MemoryLayer(DynamicLayer):
    """One attention's keys and values of the memory: written once, as they were given."""

    def update(self, key_states: Any, value_states: Any, *args: object, **kwargs: object) -> tuple[Any, Any]:
        """Two tensors (B, H, ·, ·), or what an attention keeps in their place → themselves."""
        self.keys, self.values, self.is_initialized = key_states, value_states, True
        return self.keys, self.values


class SharedMemoryCache(EncoderDecoderCache):
    """Keys and values during generation: N rows for self-attention, B rows for the memory.

    Beams move within their image, so the memory's rows never move: only the self-attention part is reordered.
    """

    @classmethod
    def around(cls, cache: Cache | None = None) -> "SharedMemoryCache":
        """Take a cache for self-attention (new without one) and start with no keys of the memory."""
        return cls(DynamicCache() if cache is None else cache, Cache(layer_class_to_replicate=MemoryLayer))

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams; `beam_idx` (N,) are rows of the self-attention cache."""
        self.self_attention_cache.reorder_cache(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat the decoder rows; the memory stays as it is."""
        self.self_attention_cache.batch_repeat_interleave(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some decoder rows; the memory stays as it is."""
        self.self_attention_cache.batch_select_indices(indices)
