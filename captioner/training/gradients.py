"""The gradients of one step, the same however its global batch is split over processes, micro-batches and pieces.

The loss is normalised by the weight (supervised tokens) of the global batch, so that a batch too large for the memory
can be cut into pieces without changing the result. Knows nothing about what the loss means.
"""

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from math import ceil

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..base import SettingsError, say, some
from ..cpu import wide_products
from ..data import Batch
from .objectives import Objective

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


class Gradients:
    """Accumulates the gradients of steps; after an out-of-memory error it works on smaller pieces from then on.

    Pieces change no result but a batch norm's statistics. Nothing is exchanged before the last backward pass, so that
    one process of several may cut its share alone. Sharded models cannot be cut on one process alone, and a process
    that fails while gradients are exchanged cannot take that back: both stop with the remedy.

    Args:
        parts: into how many pieces each micro-batch is cut at first.
    """

    def __init__(self, accelerator: Accelerator, model: nn.Module, objective: Objective, parts: int = 1):
        self.accelerator, self.model, self.objective, self.parts = accelerator, model, objective, parts
        self._exchanging = False

    def __call__(self, micro_batches: list[Batch]) -> Tensor:
        """Add the gradients of one step; → its mean loss per supervised token of the global batch, a scalar.

        DDP averages gradients over processes, so each summed loss is scaled by their number over the global tokens.
        """
        tokens = total = None
        while total is None:
            try:
                pieces = [self._prepared(piece) for batch in micro_batches for piece in split(batch, self.parts)]
                tokens = self._shared_tokens(pieces) if tokens is None else tokens
                total = self._accumulate(pieces, tokens)
            except RuntimeError as error:
                self._make_room(error, max(map(_images, micro_batches)))
        return self.accelerator.reduce(total, reduction="sum") / tokens

    def _prepared(self, piece: Batch) -> Batch:
        with self.accelerator.autocast():
            return self.objective.prepare(piece)

    def _shared_tokens(self, pieces: list[Batch]) -> Tensor:
        """Supervised tokens of the global batch; 1 where nothing could be read."""
        tokens = sum((piece["labels"] != -100).sum() for piece in pieces)
        return self.accelerator.reduce(tokens, reduction="sum").clamp(min=1)

    def _accumulate(self, pieces: list[Batch], tokens: Tensor) -> Tensor:
        """The summed loss of this process's pieces; the last backward pass exchanges gradients."""
        total = torch.zeros((), device=self.accelerator.device)
        for i, piece in enumerate(pieces):
            last = i + 1 == len(pieces)
            with nullcontext() if last and not self._late else self.accelerator.no_sync(self.model):
                with self._products(), self.accelerator.autocast():
                    summed = self.objective.loss(self.model, piece)
                if last and self.accelerator.num_processes > 1:
                    summed = summed + self._touched(piece)
                scaled = summed * self.accelerator.num_processes / tokens
                if not last:
                    self.accelerator.backward(scaled)
            total += summed.detach()
        self._exchanging = self.accelerator.num_processes > 1
        with self.accelerator.trigger_sync_in_backward(self.model):
            self.accelerator.backward(scaled)
        self._exchanging = False
        return total

    @property
    def _late(self) -> bool:
        """Whether the exchange can be asked for after the forward pass, as of replicas."""
        return isinstance(self.model, DistributedDataParallel)

    def _touched(self, piece: Batch) -> Tensor | float:
        """0, to which every trained weight belongs where a piece lacks a modality: replicas wait for each gradient."""
        config = self.accelerator.unwrap_model(self.model).config
        absent = [name for name in config.modalities if config.inputs[name][0] not in piece]
        if not absent:
            return 0.0
        if not self._late:
            raise SettingsError(
                f"a batch has no {some(absent)} in any sample, which weights that are shared out over processes cannot "
                "take; use configs/accelerate/ddp.yaml, or larger batches"
            )
        return sum(0.0 * p.flatten()[:1].sum() for p in self.model.parameters() if p.requires_grad)

    def _products(self) -> AbstractContextManager:
        sharded = self.accelerator.distributed_type in SHARDED
        recomputed = sharded or self.accelerator.unwrap_model(self.model).is_activation_checkpointing
        return wide_products(self.accelerator.device, recomputed)

    def _make_room(self, error: RuntimeError, images: int) -> None:
        if not should_reduce_batch_size(error):
            raise error
        if self.parts >= images or self._exchanging or self.accelerator.distributed_type in SHARDED:
            raise SettingsError(
                f"out of memory with {ceil(images / self.parts)} images at once; halve "
                "`training.per_device_train_batch_size` and double `training.gradient_accumulation_steps`, which gives "
                "the same result, or set `training.gradient_checkpointing=true`"
            ) from error
        self.parts *= 2
        self.model.zero_grad()
        gc.collect()
        torch.cuda.empty_cache()
        say(f"out of memory: from now on {ceil(images / self.parts)} images at once, with the same result")


def split(batch: Batch, parts: int) -> Iterator[Batch]:
    """A batch of B images in at most `parts` pieces of whole images, each with its share of every tensor's rows."""
    images = _images(batch)
    size = ceil(images / parts)
    rows = {name: len(value) // images for name, value in batch.items()}
    for start in range(0, images, size):
        yield {name: value[start * rows[name] : (start + size) * rows[name]] for name, value in batch.items()}


def _images(batch: Batch) -> int:
    """B; captions may be several times as many."""
    return min(map(len, batch.values()))
