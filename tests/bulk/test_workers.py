"""Reading ahead in workers: in order, and a death costs one image."""

import os
import signal

import pytest
import torch

from captioner.bulk.inputs import Item
from captioner.bulk.reading import Reader, Reading
from captioner.bulk.workers import KILLED, read_ahead

COUNT = 12


class Deadly(Reader):
    """Reads nothing; kills its process at two of the items."""

    def __getitem__(self, item):
        if item.name in {"4", "9"}:
            os.kill(os.getpid(), signal.SIGKILL)
        return Reading(item, pixels=torch.full((1,), item.index, dtype=torch.uint8))


def batches(size):
    items = [Item(str(i), None, index=i) for i in range(COUNT)]
    return [items[i : i + size] for i in range(0, COUNT, size)]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_image_that_kills_its_worker_is_one_bad_image_and_the_others_come_in_order(workers):
    read = [reading for batch in read_ahead(Deadly(None), batches(3), workers) for reading in batch]
    assert [reading.item.index for reading in read] == list(range(COUNT))
    assert {reading.item.name: reading.error for reading in read if reading.error} == {"4": KILLED, "9": KILLED}
    assert all(reading.pixels.item() == reading.item.index for reading in read if not reading.error)


def test_batches_are_as_they_were_handed_in():
    sizes = [len(batch) for batch in read_ahead(Deadly(None), batches(5), 2)]
    assert sizes == [5, 5, 2]


def test_a_death_waits_until_the_next_batch_is_asked_for():
    before = signal.getsignal(signal.SIGCHLD)
    readings = read_ahead(Deadly(None), batches(3), 1)
    next(readings)
    assert signal.getsignal(signal.SIGCHLD) is before
    readings.close()
