"""`Memory`: what the decoder may attend to, states and masks per modality; and the cache of its keys and values.

Knows nothing about where states come from or how they are attended to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache
from transformers.modeling_outputs import ModelOutput


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

        Built once and kept, since every layer asks for it.
        """
        if getattr(self, "_joined", None) is None:
            present = [name for name in order if name in self.states]
            self._joined = (
                torch.cat([self.states[name] for name in present], dim=1),
                torch.cat([self.masks[name] for name in present], dim=1),
            )
        return self._joined

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


class HeldLayer(DynamicLayer):
    """What one layer of attention holds of the memory: written once, as it was given."""

    def update(self, key_states: Any, value_states: Any, *args: object, **kwargs: object) -> tuple[Any, Any]:
        """Two tensors (B, H, ·, ·) or `Blocks` → themselves."""
        self.keys, self.values, self.is_initialized = key_states, value_states, True
        return self.keys, self.values


class SharedMemoryCache(EncoderDecoderCache):
    """Keys and values during generation: N rows for self-attention, B rows for the memory.

    Beams move within their image, so the memory's rows never move: only the self-attention part is reordered.
    """

    @classmethod
    def around(cls, cache: Cache | None = None) -> "SharedMemoryCache":
        """Take a cache for self-attention (new without one) and start with no keys of the memory."""
        return cls(DynamicCache() if cache is None else cache, Cache(layer_class_to_replicate=HeldLayer))

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams; `beam_idx` (N,) are rows of the self-attention cache."""
        self.self_attention_cache.reorder_cache(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat the decoder rows; the memory stays as it is."""
        self.self_attention_cache.batch_repeat_interleave(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some decoder rows; the memory stays as it is."""
        self.self_attention_cache.batch_select_indices(indices)
