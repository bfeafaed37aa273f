"""The processes that share one run, as `accelerate launch` or `torchrun` started them, and signals that end it.

One process needs no torch.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

GRACE = 2.0  # seconds in which repeated signals are the same one: launchers send Ctrl-C on to those who have it already
PARTING = 0.3  # seconds
PATIENCE = timedelta(days=30)  # processes wait for each other however different their shares are
SCORING = timedelta(hours=12)  # they wait while the first works alone: scores in Java, features joined, checkpoints

T = TypeVar("T")


class DisagreementError(ValueError):
    """Processes of one run that do not see the same; the message says what and which."""


class DeviceError(ValueError):
    """A device that is not there; the message lists those that are."""


class Processes:
    """This process among those of the run.

    Args:
        device: "cpu", "cuda:1", …; None: the accelerator that is this process's, or else the processor.

    Raises:
        DeviceError: there is no such device, or one was named for several processes.
    """

    def __init__(self, device: str | None = None):
        self.wanted = device
        self.rank, self.count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self._state: Any = None
        if device not in (None, "cpu"):
            _check_device(device, self.count)

    @property
    def state(self) -> Any:
        """Accelerate's state; the process group is made on first use."""
        if self._state is None:
            import torch
            from accelerate import PartialState

            cpu = self.wanted == "cpu" or not torch.accelerator.is_available()
            group = {"timeout": PATIENCE} if self.count > 1 else {}
            self._state = PartialState(cpu=cpu, **group)
        return self._state

    @property
    def device(self) -> Any:
        """Where this process computes."""
        return self.wanted if self.wanted is not None and self.count == 1 else self.state.device

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.count > 1:
            self.state.wait_for_everyone()

    def add(self, *values: float) -> list[float]:
        """The sums of values over all processes, when all are here."""
        if self.count == 1:
            return list(values)
        import torch
        from accelerate.utils import reduce

        return reduce(torch.tensor(values, dtype=torch.float64, device=self.state.device), "sum").tolist()

    def first(self, value: T) -> T:
        """The first process's value on every process, when all are here; what Python can pickle."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        own = [value]
        _ = self.state
        return broadcast_object_list(own)[0]

    def agree(self, facts: dict[str, Any]) -> None:
        """Make sure, before work that needs it, that all processes see the same; for all of them together.

        Args:
            facts: what, in words → what this process sees.

        Raises:
            DisagreementError: on every process, if two see something else.
        """
        if self.count == 1:
            return
        from accelerate.utils import gather_object

        _ = self.state
        seen = gather_object([facts])
        for what in dict.fromkeys(name for own in seen for name in own):
            values = [own.get(what) for own in seen]
            other = next((i for i, value in enumerate(values) if value != values[0]), None)
            if other is not None:
                raise DisagreementError(
                    f"the processes must see the same, but {what} is {values[0]!r} to process 0 and {values[other]!r} "
                    f"to process {other}; start all with the same settings, in folders that all of them share"
                )


def _check_device(wanted: str, processes: int) -> None:
    """Refuse a device that torch does not know or has not got."""
    import torch

    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    count = torch.accelerator.device_count() if kind else 0
    there = ["cpu", *([] if kind is None else [kind.type, *(f"{kind.type}:{i}" for i in range(count))])]
    if wanted not in there:
        raise DeviceError(f"`--device` is {wanted!r}, but here there is {', '.join(there)}; give one of these")
    if processes > 1 and ":" in wanted:
        raise DeviceError(f"`--device` is {wanted!r}, but each of {processes} processes has its own; leave it out")


def leave() -> None:
    """Leave the process group, if there is one, at the end of all work.

    Its threads end with it, unless weights spread over the processes still hold it. Then they need a moment: one that
    lets go of what it gathered while Python ends would abort the process.
    """
    if Processes().count > 1:
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
        time.sleep(PARTING)


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a question, for work that ends between two steps; a second one ends it at once."""
    asked: list[float] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked and time.monotonic() - asked[0] > GRACE:
            raise KeyboardInterrupt
        asked.append(time.monotonic())

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
