"""Losses and gradients that are no finite numbers: the run stops at the first, or goes on without the step.

Knows nothing about how a step is taken.
"""

from pathlib import Path

from accelerate import DistributedType
from torch import Tensor

from ..base import FailureError, Settings, SettingsError, say
from .checkpoints import checkpoints

MOST_SKIPPED = 50  # steps one after the other; a scale of fp16 that starts too high needs no more than 20


class DivergedError(FailureError):
    """A run whose numbers are lost; the message says the step, the last good checkpoint and what helps."""


class Divergence:
    """Watches over the steps of a run.

    Args:
        scaled: whether gradients are scaled, so that some overflow without harm.
        kind: the layout of processes.

    Raises:
        SettingsError: steps are to be left out where that cannot be done.
    """

    def __init__(self, settings: Settings, scaled: bool, kind: DistributedType):
        self.options, self.scaled = settings.training, scaled
        self.total = self.running = 0  # steps that were not taken: all of them, those one after the other
        if self.options.skip_nan_steps and kind == DistributedType.DEEPSPEED:
            raise SettingsError(
                "DeepSpeed takes its steps by itself, so `training.skip_nan_steps=true` cannot leave one out; set it "
                "to false, or use configs/accelerate/fsdp2.yaml"
            )

    def note(self, step: int, loss: Tensor, taken: bool) -> None:
        """Count a step that was or was not taken.

        Raises:
            DivergedError: it was not, and steps may not be left out; or too many were, one after the other.
        """
        if taken:
            self.running = 0
            return
        self.total, self.running = self.total + 1, self.running + 1
        overflow = self.scaled and bool(loss.isfinite())
        what = "a gradient" if loss.isfinite() else f"the loss ({loss.item()})"
        if not (self.options.skip_nan_steps or overflow):
            raise DivergedError(f"step {step}: {what} is no finite number; {self._remedy()}")
        if self.running > MOST_SKIPPED:
            raise DivergedError(
                f"step {step}: {what} is no finite number, as in the {self.running - 1} steps before; {self._remedy()}"
            )
        if not overflow:
            say(f"step {step}: {what} is no finite number, so the step is left out, {self.total} so far")

    def _remedy(self) -> str:
        return (
            f"{last_good(Path(self.options.output_dir))}: lower `training.learning_rate` "
            f"({self.options.learning_rate}), look for broken samples, or leave such steps out with "
            "`training.skip_nan_steps=true`"
        )


def last_good(run: Path) -> str:
    """What --resume goes on from, in words."""
    kept = checkpoints(run)
    return f"{kept[-1]} is good, and --resume goes on from it" if kept else "no checkpoint was written yet"
