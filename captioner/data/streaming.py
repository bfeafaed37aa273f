"""A split that is never whole in memory or on disk: read shard by shard into training, shuffled by a buffer.

What comes when is a function of (seed, epoch, processes, workers) and the place in the epoch alone, so that a restart
finds its place again. Knows nothing about tensors.
"""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import IterableDataset, get_worker_info

from ..base import DataSettings, SettingsError
from ..model import each
from .faults import DUPLICATE, Bad
from .grouping import captions_in, context_in, empty, ranges
from .rows import DataError, Rows, holds_paths
from .shards import Piece, Shards
from .shuffle_buffer import ShuffleBuffer
from .sources import choose_split, column_named, located, table_rows

MOST_TEXTS = 100_000  # samples that a tokenizer is trained on


class Stream:
    """One split as samples of the data schema, one for each row, in the order of the source.

    Args:
        shards: of the split.
        pieces: what of it is read.
        settings: name its columns.
        root: folder of image paths.
    """

    def __init__(self, shards: Shards, pieces: Sequence[Piece], settings: DataSettings, root: Path):
        self.shards, self.pieces, self.root = shards, list(pieces), root
        names = list(shards.features)
        self.columns = {"captions": column_named(names, settings, "caption_column")}
        for key in ("image", "context", "id"):
            if getattr(settings, f"{key}_column") is not None:
                self.columns[key] = column_named(names, settings, f"{key}_column")
        self.columns |= {name: column for name, column in settings.modality_columns.items() if column in names}
        self.paths = "image" in self.columns and holds_paths(shards.features[self.columns["image"]])
        self.bad = [Bad(DUPLICATE, name, "several rows have it", left_out=False) for name in shards.duplicates]

    def __len__(self) -> int:
        return sum(piece.count for piece in self.pieces)

    def read(self, piece: Piece, skipped: int = 0) -> Iterator[dict[str, Any]]:
        """The samples of a piece after the first `skipped`, each with its `index` and, if it has faults, `bad`."""
        for number, row in self.shards.read(piece, skipped):
            yield self._sample(number, row)

    def _sample(self, number: int, row: dict[str, Any]) -> dict[str, Any]:
        sample = {name: row[column] for name, column in self.columns.items()}
        name = sample.get("id")
        sample["id"] = str(row.get("__key__") or number) if name in (None, "") else str(name)
        sample["captions"], blank = captions_in(sample["captions"])
        sample["context"] = context_in(sample.get("context"))
        if self.paths:
            sample["image"] = each(lambda file: os.path.join(self.root, file), sample["image"])
        if blank or not sample["captions"]:
            sample["bad"] = [empty(sample["id"], sample["captions"])]
        return {"image": None, **sample, "index": number}

    @cached_property
    def texts(self) -> list[dict[str, Any]]:
        """`captions` and `context` of the first `MOST_TEXTS` samples."""
        samples = (sample for piece in self.pieces for sample in self.read(piece))
        return [{key: sample[key] for key in ("captions", "context")} for sample in islice(samples, MOST_TEXTS)]


def open_stream(settings: DataSettings, split: str) -> Stream:
    """Find the shards of a split, or of a slice of one such as "train[1000:]".

    Raises:
        SettingsError: settings that need all samples at once.
        DataError: no such data, or data of another kind.
    """
    for key in ("retrieve", "feature_store"):
        if getattr(settings, key) is not None:
            raise SettingsError(
                f"`data.{key}` looks at every image before training, so it needs `data.streaming=false`"
            )
    if settings.source != "datasets":
        raise SettingsError(
            f"`data.streaming` needs `data.source=datasets`, but it is {settings.source}; write your data as Parquet "
            "files or WebDataset tars"
        )
    name = split.partition("[")[0]
    with located(settings) as (path, root):
        shards = Shards.open(path, partial(choose_split, name, where=path), settings)
    parts = ranges(split, name, sum(shards.counts))
    pieces = [piece for part in parts for piece in shards.pieces(part.start, part.stop)]
    stream = Stream(shards, list(_first(pieces, settings.limit)), settings, root)
    if not len(stream):
        raise DataError(f"split {split!r} of {settings.path} is empty: it takes none of {sum(shards.counts)} rows")
    return stream


def _first(pieces: Sequence[Piece], limit: int | None) -> Iterator[Piece]:
    left = sum(piece.count for piece in pieces) if limit is None else limit
    for piece in pieces:
        if left > 0:
            yield piece._replace(count=min(piece.count, left))
            left -= piece.count


def read_once(settings: DataSettings, split: str) -> Rows:
    """A split or a slice of one, for validation: read from the stream into memory."""
    stream = open_stream(settings, split)
    rows = [row for piece in stream.pieces for _, row in stream.shards.read(piece)]
    return table_rows(Dataset.from_list(rows, features=stream.shards.features), settings, [stream.root])


class ShuffledStream(IterableDataset):
    """What one process reads of a stream, epoch by epoch: batches that lie in no other process or worker.

    An epoch puts the pieces in a new order, deals the positions in it to processes and their workers in equal runs of
    whole batches, and shuffles each run by a buffer. What is left over, less than a batch for each process, is another
    part of the data in every epoch.

    Args:
        stream: of samples.
        batch_size: of the loader, which must drop nothing.
        buffer: samples that wait in each worker.
        seed: of the order.
        process: this one and how many there are.
        change: of each sample with its `epoch`, or None.
    """

    def __init__(
        self,
        stream: Stream,
        batch_size: int,
        buffer: int,
        seed: int,
        process: tuple[int, int] = (0, 1),
        change: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ):
        self.stream, self.batch_size, self.buffer, self.seed, self.change = stream, batch_size, buffer, seed, change
        self.process, processes = process
        self.batches = len(stream) // (batch_size * processes)  # of this process in an epoch
        self._place = torch.zeros(2, dtype=torch.int64).share_memory_()

    def set_place(self, epoch: int, skipped: int) -> None:
        """Choose what the next pass over the loader gives: an epoch, without its first batches."""
        self._place.copy_(torch.tensor([epoch, skipped]))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch, skipped = self._place.tolist()
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        lane = (number + skipped) % workers  # loaders begin with worker 0, whoever is next
        positions = self._positions(lane, workers)
        order = ShuffleBuffer(positions, self.buffer, f"buffer {self.seed} {epoch} {self.process} {lane} {workers}")
        order.skip(len(range(lane, skipped, workers)) * self.batch_size)
        pieces = random.Random(f"shards {self.seed} {epoch}").sample(self.stream.pieces, len(self.stream.pieces))
        for sample in self._fetch(pieces, order):
            sample["epoch"] = epoch
            yield sample if self.change is None else self.change(sample)

    def _positions(self, lane: int, workers: int) -> range:
        """The run of positions of an epoch that becomes batches lane, lane + workers, … of this process."""
        sizes = [len(range(own, self.batches, workers)) for own in range(workers)]
        first = self.process * self.batches + sum(sizes[:lane])
        return range(first * self.batch_size, (first + sizes[lane]) * self.batch_size)

    def _fetch(self, pieces: Sequence[Piece], order: ShuffleBuffer) -> Iterator[dict[str, Any]]:
        """The samples at the positions that an order still has; nothing before the first of them is read."""
        waiting, coming = set(order.waiting), order.coming
        held: dict[int, dict[str, Any]] = {}
        samples = self._from(pieces, min(waiting, default=0))
        for position in order:
            while position not in held:
                place, sample = next(samples)
                if place in waiting or place in coming:
                    held[place] = sample
            yield held.pop(position)

    def _from(self, pieces: Sequence[Piece], first: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Positions in the pieces' order, from `first` on, with their samples."""
        end = 0
        for piece in pieces:
            begin, end = end, end + piece.count
            if first < end:
                skipped = max(first - begin, 0)
                yield from enumerate(self.stream.read(piece, skipped), begin + skipped)
