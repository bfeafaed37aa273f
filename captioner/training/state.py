"""What the steps of a run change about the captioner: a step itself, and all of it gathered and brought back exactly.

Tensors go by the names of their parameters, whatever the layout of processes, so that a run may go on with another
number of them. Knows nothing about files, data or losses.
"""

from dataclasses import dataclass
from math import isfinite
from typing import Any

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim.lr_scheduler import LRScheduler

from ..base import TrainingSettings
from ..model import Captioner
from .average import WeightAverage
from .checkpoints import Tensors
from .optimisation import (
    build_optimizer,
    build_schedule,
    check_rates,
    own_rate,
    part_parameters,
    set_training_mode,
)

GATHERED = StateDictOptions(full_state_dict=True, cpu_offload=True)
WHOLE_STATE = StateDictOptions(full_state_dict=True)
MEMBER = "::"  # between the name of a parameter and what the optimiser keeps for it


@dataclass
class RunState:
    """Weights, optimiser, schedule, loss scale and the weights' moving average.

    `gather` and `restore` are for all processes together; no generator's state is kept, because every step seeds its
    own.
    """

    accelerator: Accelerator
    options: TrainingSettings
    model: Captioner
    wrapped: nn.Module  # the same as Accelerate prepared it
    optimizer: AcceleratedOptimizer
    schedule: LRScheduler
    average: WeightAverage | None

    @classmethod
    def prepare(cls, model: Captioner, options: TrainingSettings, accelerator: Accelerator) -> "RunState":
        """Optimiser, schedule and average for a captioner, as the options ask for; Accelerate takes them over.

        Raises:
            SettingsError: options that do not go together.
        """
        check_rates(model, options)
        optimizer = build_optimizer(model, options)
        schedule = build_schedule(optimizer, options)
        wrapped, optimizer = accelerator.prepare(model, optimizer)
        average = WeightAverage(wrapped, options.average_decay) if options.average_decay else None
        return cls(accelerator, options, model, wrapped, optimizer, schedule, average)

    @property
    def rates(self) -> dict[str, float]:
        """The learning rates of the next step: the usual one, and those of parts that have one of their own."""
        now = dict(zip(self.schedule.base_lrs, self.schedule.get_last_lr(), strict=True))
        rates = {"learning_rate": self.options.learning_rate}
        for part, parameters in part_parameters(self.model).items():
            rate, (section, *name) = own_rate(part, self.options), part.split(".")
            if parameters and rate is not None:
                rates[".".join([f"{section}_learning_rate", *name])] = rate
        shrunk = self.schedule.get_last_lr()[0] / self.schedule.base_lrs[0]
        return {name: now.get(rate, rate * shrunk) for name, rate in rates.items()}

    def train(self) -> None:
        """Training mode, but for frozen encoders."""
        set_training_mode(self.wrapped, self.model, self.options)

    def step(self, loss: Tensor) -> bool:
        """Move the weights along their gradients, which are then gone; schedule and average follow.

        Args:
            loss: whose gradients they are, the same on all processes.

        Returns:
            Whether the step was taken. Where the loss or the gradients' norm is no finite number, nothing moves; but
            DeepSpeed has taken it already, unless its own loss scale forbade.
        """
        norm = self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.options.max_grad_norm)
        taken = all(isfinite(float(value)) for value in (loss, norm) if value is not None)
        if taken or self.accelerator.scaler is not None:  # which takes no such step, and lowers its scale
            self.optimizer.step()
        if taken:
            self.schedule.step()
            if self.average is not None:
                self.average.update()
        self.optimizer.zero_grad()
        return taken

    def gather(self) -> tuple[Tensors, dict[str, Any]]:
        """Tensors and facts; whole on the first process, empty tensors on the others."""
        optimizer = get_optimizer_state_dict(self.wrapped, self.optimizer.optimizer, options=GATHERED)
        members = optimizer.get("state", {}).items()
        tensors = {
            "model": get_model_state_dict(self.wrapped, options=GATHERED),
            "optimizer": {f"{name}{MEMBER}{kind}": value for name, own in members for kind, value in own.items()},
        }
        facts = {"schedule": {"last_epoch": self.schedule.last_epoch}}
        if self.accelerator.scaler is not None:
            facts["scaler"] = self.accelerator.scaler.state_dict()
        if self.average is not None:
            facts["average_updates"] = self.average.updates
            with self.average.in_place():
                tensors["average"] = {
                    n: t.clone() for n, t in get_model_state_dict(self.wrapped, options=GATHERED).items()
                }
        return tensors, facts

    def restore(self, tensors: Tensors, facts: dict[str, Any]) -> None:
        """Make this run what `gather` saw, at the rates and with the options that it has now."""
        if self.average is not None and "average" in tensors:
            set_model_state_dict(self.wrapped, tensors["average"], options=WHOLE_STATE)
            self.average.take(facts["average_updates"])
        self._restore_optimizer(tensors["optimizer"])
        set_model_state_dict(self.wrapped, tensors["model"], options=WHOLE_STATE)
        self._restore_schedule(facts["schedule"]["last_epoch"])
        if self.accelerator.scaler is not None and "scaler" in facts:
            self.accelerator.scaler.load_state_dict(facts["scaler"])

    def _restore_optimizer(self, members: dict[str, Tensor]) -> None:
        """What it kept for each parameter; one that was frozen then starts anew."""
        now = get_optimizer_state_dict(self.wrapped, self.optimizer.optimizer, options=WHOLE_STATE)
        state: dict[str, dict[str, Tensor]] = {}
        for key, value in members.items():
            name, kind = key.split(MEMBER)
            state.setdefault(name, {})[kind] = value
        now["state"] = {name: state.get(name, own) for name, own in now["state"].items()}
        set_optimizer_state_dict(self.wrapped, self.optimizer.optimizer, now, options=WHOLE_STATE)

    def _restore_schedule(self, steps: int) -> None:
        """Where the schedule of these settings is after so many steps."""
        shrinking = zip(self.schedule.base_lrs, self.schedule.lr_lambdas, strict=True)
        rates = [rate * shrunk(steps) for rate, shrunk in shrinking]
        place = {"last_epoch": steps, "_step_count": steps + 1, "_last_lr": rates}
        self.schedule.load_state_dict(self.schedule.state_dict() | place)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
