"""Stepping the decoder through B images × K captions at once, for `decoding.py`; does not know how tokens are chosen.

The K captions of an image stand side by side as the positions of one row, so every module of the decoder serves them as
it is. A token's keys and values are written once into a slot of their own and never move: a mask says which slots are
the past of which caption, and following a beam moves a row of that mask only. Captions that never follow each other
stand in several rows of at most `WIDEST_ROW`, since a row costs the square of its width; the memory keeps its B rows.
Shapes: B images, K captions, G rows of an image, V words.
"""

import math
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache, CacheLayerMixin

from ..model import CROSS_BACKENDS, Captioner, Memory, SharedMemoryCache

WIDEST_ROW = 16  # captions


class Selectable(Protocol):
    """What an attention may cache in the place of a tensor (B, …)."""

    def select(self, rows: Tensor) -> Self:
        """The same for some images, (B') long, in their order."""


class Compaction:
    """How a batch closes up when finished images leave it: the last ones that stay move into the places of those.

    Args:
        finished: True for each image that leaves.
    """

    def __init__(self, finished: Sequence[bool], device: torch.device):
        stay = [row for row, leaves in enumerate(finished) if not leaves]
        self.count = len(stay)
        free = [row for row in range(self.count) if finished[row]]
        moved = [row for row in stay if row >= self.count]
        into = dict(zip(free, moved, strict=True))
        self.order = [into.get(row, row) for row in range(self.count)]
        self._rows, self._free, self._moved = (
            torch.tensor(rows, dtype=torch.long, device=device) for rows in (self.order, free, moved)
        )

    def select(self, x: Tensor) -> Tensor:
        """The remaining rows of x (B, …) in a new tensor, in their new order."""
        return x.index_select(0, self._rows)

    def memory(self, memory: Memory) -> Memory:
        """The remaining images of a memory, in their new order."""
        return memory.select(self._rows)

    def in_place(self, x: Tensor | Selectable) -> Tensor | Selectable:
        """The remaining rows of x (B, …) in x itself: only rows that change their place are copied."""
        if not isinstance(x, Tensor):
            return x.select(self._rows)
        if len(self._free):
            x[self._free] = x[self._moved]
        return x[: self.count]


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values of all captions, (B, H, slots, d), allocated once and written in order.

    Args:
        slots: how many tokens of an image, over all its captions, there is room for.
    """

    def __init__(self, slots: int):
        super().__init__()
        self.slots, self.end = slots, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate for keys and values shaped as these but for their number."""
        self.keys, self.values = (x.new_empty(*x.shape[:2], self.slots, x.shape[3]) for x in (key_states, value_states))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write (B, H, T, d) into the next T slots; → all that has been written."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self.end = self.end, self.end + key_states.shape[2]
        self.keys[:, :, start : self.end] = key_states
        self.values[:, :, start : self.end] = value_states
        return self.keys[:, :, : self.end], self.values[:, :, : self.end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Slots in use after the next `query_length` tokens, and where they start."""
        return self.end + query_length, 0

    def get_seq_length(self) -> int:
        """Slots in use."""
        return self.end

    def get_max_length(self) -> int:
        """All slots."""
        return self.slots


class Stepper(Protocol):
    """What a search needs of a captioner, or of several."""

    def start(self, prompt: Tensor) -> Tensor:
        """Prompt ids (B, P) → logits of the next token (B, 1, V), the same for all captions of an image."""

    def step(self, tokens: Tensor) -> Tensor:
        """The next token of each caption (B, K) → logits of the one after it (B, K, V)."""

    def follow(self, parents: Tensor) -> None:
        """Caption k of an image goes on from what was its caption `parents[:, k]`; (B, K)."""

    def keep(self, compaction: Compaction) -> None:
        """Go on without the images that leave."""


class CaptionerStepper:
    """Steps one captioner.

    Args:
        memory: of B images; left as it is.
        captions: K per image.
        slots: tokens that a row may need: those of the prompt, then one per caption and step.
        rows: G, over which the captions of an image are spread; more than 1 where none ever follows another.
    """

    def __init__(self, model: Captioner, memory: Memory, captions: int, slots: int, rows: int = 1):
        self.model, self.memory, self.rows = model, Memory(states=memory.states, masks=memory.masks), rows
        self.width = -(-captions // rows)
        layers = [SlotLayer(slots) for _ in range(model.config.decoder.num_layers)]
        self.cache = SharedMemoryCache.around(Cache(layers=layers))
        like = {"dtype": model.dtype, "device": model.device}
        room = (memory.batch_size * rows, self.width, slots)
        self.past = torch.full(room, -torch.inf, **like)  # what is added to scores: 0 where a caption sees
        self.own = torch.full((self.width, self.width), -torch.inf, **like).fill_diagonal_(0)
        self.position = 0

    def start(self, prompt: Tensor) -> Tensor:
        """Read the prompt once per row."""
        length = prompt.shape[1]
        prompt = prompt.repeat_interleave(self.rows, dim=0)
        states = self.model.decoder(prompt, self.memory, cache=self.cache, logits_to_keep=1)
        self.past[:, :, :length] = 0
        self.position = length
        return self.model.lm_head(states[:: self.rows])

    def step(self, tokens: Tensor) -> Tensor:
        """Each caption sees its own past, and its token."""
        captions, start, width = tokens.shape[1], self.cache.get_seq_length(), self.width
        self.past[:, :, start : start + width] = self.own
        mask = self.past[:, None, :, : start + width]
        positions = torch.full((width,), self.position, device=tokens.device)
        self.position += 1
        rows = F.pad(tokens, (0, self.rows * width - captions)).view(-1, width)
        states = self.model.decoder(rows, self.memory, mask, self.cache, positions=positions)
        return self.model.lm_head(self._of_images(states).flatten(1, 2)[:, :captions])

    def follow(self, parents: Tensor) -> None:
        """Move rows of the mask; for captions in one row."""
        self.past = self.past.gather(1, parents[..., None].expand(-1, -1, self.past.shape[-1]))

    def keep(self, compaction: Compaction) -> None:
        """Images that stay keep their place in the caches where they can."""
        self.memory = compaction.memory(self.memory)
        self.past = compaction.select(self._of_images(self.past)).flatten(0, 1)
        for layer in self.cache.self_attention_cache.layers:
            kept = (compaction.in_place(self._of_images(x)) for x in (layer.keys, layer.values))
            layer.keys, layer.values = (x.flatten(0, 1) for x in kept)
        for layer in self.cache.cross_attention_cache.layers:
            if layer.is_initialized:
                layer.keys, layer.values = compaction.in_place(layer.keys), compaction.in_place(layer.values)

    def _of_images(self, x: Tensor) -> Tensor:
        """(B·G, …) → (B, G, …)."""
        return x.unflatten(0, (-1, self.rows))


class Ensemble:
    """Several captioners of one vocabulary as one: log of the mean of their probabilities.

    Args:
        members: one stepper each, over the same images.
    """

    def __init__(self, members: Sequence[Stepper]):
        self.members = members

    def start(self, prompt: Tensor) -> Tensor:
        """Read the prompt."""
        return _log_mean(member.start(prompt) for member in self.members)

    def step(self, tokens: Tensor) -> Tensor:
        """Step every member."""
        return _log_mean(member.step(tokens) for member in self.members)

    def follow(self, parents: Tensor) -> None:
        """Tell every member."""
        for member in self.members:
            member.follow(parents)

    def keep(self, compaction: Compaction) -> None:
        """Tell every member."""
        for member in self.members:
            member.keep(compaction)


def _log_mean(logits: Iterable[Tensor]) -> Tensor:
    each = torch.stack([one.float().log_softmax(-1) for one in logits])
    return each.logsumexp(0) - math.log(len(each))


@contextmanager
def masked_attention(models: Sequence[Captioner]):
    """Let attention backends that take no mask of ours (flash attention) be served by SDPA meanwhile."""
    configs = [model.decoder.config for model in models]
    before = [config._attn_implementation for config in configs]
    for config in configs:
        if config._attn_implementation not in CROSS_BACKENDS:
            config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        for config, backend in zip(configs, before, strict=True):
            config._attn_implementation = backend
