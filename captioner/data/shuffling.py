"""A stream shuffled by a buffer, dealt to processes and their workers, and found again at any place of any epoch.

What comes when is a function of (seed, epoch, processes, workers) and the place in the epoch alone, so that a restart
finds its place again. Knows nothing about files or tensors.
"""

import random
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import IterableDataset, get_worker_info

from .dataset import Sample
from .shards import Piece
from .streaming import Stream


class ShuffleBuffer(Iterator[int]):
    """The positions of a stream, each once: always one drawn from `size` that wait, whose place the next one takes.

    The order is a function of the arguments. A buffer as large as the stream is a full shuffle.

    Args:
        positions: of the stream.
        size: positions that wait at most.
        seed: of the draws.
    """

    def __init__(self, positions: range, size: int, seed: str):
        self.waiting = list(positions[:size])
        self.coming = positions[size:]
        self.draw = random.Random(seed)

    def __next__(self) -> int:
        if not self.waiting:
            raise StopIteration
        place = self.draw.randrange(len(self.waiting))
        position = self.waiting[place]
        if self.coming:
            self.waiting[place], self.coming = self.coming[0], self.coming[1:]
        else:
            self.waiting[place] = self.waiting[-1]
            self.waiting.pop()
        return position

    def skip(self, count: int) -> None:
        """Pass over the next `count` positions."""
        for _ in range(count):
            next(self)


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
        change: Callable[[Sample], Sample] | None = None,
    ):
        self.stream, self.batch_size, self.buffer, self.seed, self.change = stream, batch_size, buffer, seed, change
        self.process, processes = process
        self.batches = len(stream) // (batch_size * processes)  # of this process in an epoch
        self._place = torch.zeros(2, dtype=torch.int64).share_memory_()

    def set_place(self, epoch: int, skipped: int) -> None:
        """Choose what the next pass over the loader gives: an epoch, without its first batches."""
        self._place.copy_(torch.tensor([epoch, skipped]))

    def __iter__(self) -> Iterator[Sample]:
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

    def _fetch(self, pieces: Sequence[Piece], order: ShuffleBuffer) -> Iterator[Sample]:
        """The samples at the positions that an order still has; nothing before the first of them is read."""
        waiting, coming = set(order.waiting), order.coming
        buffer: dict[int, Sample] = {}
        samples = self._from(pieces, min(waiting, default=0))
        for position in order:
            while position not in buffer:
                place, sample = next(samples)
                if place in waiting or place in coming:
                    buffer[place] = sample
            yield buffer.pop(position)

    def _from(self, pieces: Sequence[Piece], first: int) -> Iterator[tuple[int, Sample]]:
        """Positions in the pieces' order, from `first` on, with their samples."""
        end = 0
        for piece in pieces:
            begin, end = end, end + piece.count
            if first < end:
                skipped = max(first - begin, 0)
                yield from enumerate(self.stream.read(piece, skipped), begin + skipped)
