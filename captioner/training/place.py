"""Where in its epochs a run is, counted in samples: other processes or other batches find it again.

Knows nothing about what the samples are.
"""

from dataclasses import dataclass
from typing import Any

from ..base import Settings, say


@dataclass
class Place:
    """The place of a run in its epochs.

    Args:
        epoch: micro-batches that each process has of one.
        samples: of a micro-batch, on all processes together.
        accumulation: micro-batches of a step.
        streaming: whether other processes are dealt other samples.
        done: steps that were taken when this process began.
        begun: micro-batches that lay behind then.
    """

    epoch: int
    samples: int
    accumulation: int
    streaming: bool
    done: int
    begun: int

    @classmethod
    def after(cls, done: int, epoch: int, settings: Settings, processes: int) -> "Place":
        """The place after so many steps of the same kind."""
        options, accumulation = settings.training, settings.training.gradient_accumulation_steps
        samples = options.per_device_train_batch_size * processes
        return cls(epoch, samples, accumulation, settings.data.streaming, done, done * accumulation)

    def facts(self, step: int) -> dict[str, int]:
        """What a restart after a step must know."""
        epoch, batches = divmod(self.begun + (step - self.done) * self.accumulation, self.epoch)
        return {"epoch": epoch, "samples": batches * self.samples, "batch": self.samples}

    def restore(self, facts: dict[str, Any] | None) -> None:
        """Go on from what `facts` said; says where batches of another size do not meet the place."""
        if facts is None:
            return
        batches, rest = divmod(facts["samples"], self.samples)
        self.begun = facts["epoch"] * self.epoch + min(batches, self.epoch)
        if facts["batch"] != self.samples:
            again = f", {rest} of them again" if rest else ""
            dealt = "; the stream is dealt out anew, so some come twice or not at all" if self.streaming else ""
            say(
                f"the epoch goes on after {facts['samples']} of its samples{again}, with {self.samples} at a time, not "
                f"{facts['batch']}{dealt}"
            )
