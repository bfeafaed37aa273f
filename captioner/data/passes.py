"""The batches of one step after the other, epoch after epoch, from any step on.

Map-style data and streams answer to the same two names: how many batches an epoch has, and those after the first few.
Knows nothing about what a step does with its batches.
"""

from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Protocol

from accelerate import Accelerator, skip_first_batches
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader, Dataset

from ..base import Settings, SettingsError
from .dataset import Batch, CaptionDataset, Split
from .faults import Bad, sift
from .modality_dropout import ModalityDropout
from .shuffling import ShuffledStream
from .streaming import Stream


class Passes(Protocol):
    """This process's share of the training split."""

    def __len__(self) -> int:
        """Batches of an epoch."""

    def batches(self, epoch: int, skipped: int) -> Iterator[Batch]:
        """The batches of an epoch after the first `skipped`, on this process's device."""


class MapPasses:
    """Samples with a place each; Accelerate shuffles them and deals them to processes.

    Args:
        samples: a split in the data schema.
        collate: samples to a batch, in workers.
        modalities: of the captioner, of which some may be dropped.
    """

    def __init__(
        self, samples: Split, settings: Settings, collate: Callable, modalities: list[str], accelerator: Accelerator
    ):
        data, options = settings.data, settings.training
        _check_size(len(samples), settings, accelerator)
        self.dataset = CaptionDataset(samples)
        dropping: Dataset = self.dataset
        if data.modality_dropout:
            dropping = ModalityDropout(self.dataset, data.modality_dropout, options.seed, modalities)
        loader = DataLoader(
            dropping,
            batch_size=options.per_device_train_batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=options.dataloader_num_workers,
            persistent_workers=options.dataloader_num_workers > 0,
            collate_fn=collate,
        )
        self.loader = accelerator.prepare(loader)

    def __len__(self) -> int:
        return len(self.loader)

    def batches(self, epoch: int, skipped: int) -> Iterator[Batch]:
        """As in `Passes`."""
        rest = skip_first_batches(self.loader, skipped) if skipped else self.loader
        self.loader.set_epoch(epoch)  # the order; the sampler is shared with the rest
        rest.set_epoch(epoch)
        self.dataset.set_epoch(epoch)  # captions and crops; Accelerate forwards it only on a single process
        yield from rest


class StreamPasses:
    """A stream that every process and worker reads its own part of. Arguments as in `MapPasses`."""

    def __init__(
        self, stream: Stream, settings: Settings, collate: Callable, modalities: list[str], accelerator: Accelerator
    ):
        data, options = settings.data, settings.training
        _check_size(len(stream), settings, accelerator)
        self.device, change = accelerator.device, None
        if data.modality_dropout:
            change = ModalityDropout(None, data.modality_dropout, options.seed, modalities).hide
        size, process = options.per_device_train_batch_size, (accelerator.process_index, accelerator.num_processes)
        self.dataset = ShuffledStream(stream, size, data.shuffle_buffer, options.seed, process, change)
        self.loader = DataLoader(
            self.dataset,
            batch_size=size,
            num_workers=options.dataloader_num_workers,
            persistent_workers=options.dataloader_num_workers > 0,
            collate_fn=collate,
        )

    def __len__(self) -> int:
        return self.dataset.batches

    def batches(self, epoch: int, skipped: int) -> Iterator[Batch]:
        """As in `Passes`."""
        self.dataset.set_place(epoch, skipped)
        for batch in self.loader:
            yield send_to_device(batch, self.device)


def _check_size(samples: int, settings: Settings, accelerator: Accelerator) -> None:
    size, processes = settings.training.per_device_train_batch_size, accelerator.num_processes
    if samples < size * processes:
        raise SettingsError(
            f"`training.per_device_train_batch_size` is {size}, but the training split has only {samples} samples for "
            f"{processes} processes; make it smaller"
        )


def steps(passes: Passes, accumulation: int, begun: int, bad: list[Bad]) -> Iterator[list[Batch]]:
    """The micro-batches of one optimiser step after the other.

    Args:
        accumulation: micro-batches of a step.
        begun: micro-batches that lie behind, in whole epochs of `passes` and the one that goes on.
        bad: takes what is wrong with their samples.
    """
    first, skipped = divmod(begun, len(passes))
    batches = (batch for epoch in count(first) for batch in passes.batches(epoch, skipped if epoch == first else 0))
    sifted = sift(batches, bad)
    while True:
        yield list(islice(sifted, accumulation))
