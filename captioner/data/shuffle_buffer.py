"""The order in which a buffer shuffles a stream, as numbers alone: any place of it is found without the data."""

import random
from collections.abc import Iterator


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
