"""Batches of items read ahead in worker processes, in order; an item that kills its worker is one bad image.

Knows how items are dealt to workers; what reading one means is the affair of `reading.py`.
"""

import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch.utils.data import DataLoader

from .inputs import Item
from .reading import Reader, Reading

KILLED = "reading it killed the process that did (a broken file, or too little memory)"


def read_ahead(reader: Reader, batches: Iterable[list[Item]], workers: int) -> Iterator[list[Reading]]:
    """Batches of items → batches of readings; with no workers in this process, which then dies with them.

    1. batches are read a few ahead of what is yielded;
    2. where a worker dies, what was handed out and has not come back is read again one item at a time;
    3. then it goes on with new workers.
    """
    batches = iter(batches)
    while True:
        handed: deque[list[Item]] = deque()
        readings = _load(reader, _noting(batches, handed), workers)
        try:
            for batch in readings:
                handed.popleft()
                yield batch
            return
        except RuntimeError:
            if workers == 0 or not handed:
                raise
        for batch in handed:
            yield list(_one_per_batch(reader, batch))


def _noting(batches: Iterator[list[Item]], handed: deque[list[Item]]) -> Iterator[list[Item]]:
    for batch in batches:
        handed.append(batch)
        yield batch


def _load(
    reader: Reader, batches: Iterable[list[Item]], workers: int, ahead: int | None = None
) -> Iterator[list[Reading]]:
    loader = DataLoader(
        reader,
        batch_sampler=batches,
        num_workers=workers,
        prefetch_factor=ahead,
        collate_fn=list,
        worker_init_fn=_start,
    )
    with _deaths_wait():
        return iter(loader)


def _start(worker: int) -> None:
    """Leave Ctrl-C to the main process, which finishes what is in flight."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _deaths_wait() -> Iterator[None]:
    """A worker's death shows when the next batch is asked for; torch would also raise in between, amid a write."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD)
    yield
    if main and before is not None:
        signal.signal(signal.SIGCHLD, before)


def _one_per_batch(reader: Reader, items: list[Item]) -> Iterator[Reading]:
    """One item at a time in one worker, so that a death says whose it was."""
    left = deque(items)
    while left:
        try:
            for (reading,) in _load(reader, [[item] for item in left], workers=1, ahead=1):
                left.popleft()
                yield reading
        except RuntimeError:
            yield Reading(replace(left.popleft(), image=None, columns={}), error=KILLED)
