"""What the steps of a run change about the captioner: a step itself, and all of it gathered and brought back exactly.

Tensors go by the names of their parameters, whatever the layout of processes, so that a run may go on with another
number of them. Knows nothing about files, data or losses.
"""

from dataclasses import dataclass
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
from .optimisation import build_optimizer, build_schedule, set_training_mode

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
        optimizer = build_optimizer(model, options)
        schedule = build_schedule(optimizer, options)
        wrapped, optimizer = accelerator.prepare(model, optimizer)
        average = WeightAverage(wrapped, options.average_decay) if options.average_decay else None
        return cls(accelerator, options, model, wrapped, optimizer, schedule, average)

    @property
    def rate(self) -> float:
        """The learning rate of the next step, of the first group of parameters."""
        return self.schedule.get_last_lr()[0]

    def train(self) -> None:
        """Training mode, but for frozen encoders."""
        set_training_mode(self.wrapped, self.model, self.options)

    def step(self) -> None:
        """Move the weights along their gradients, which are then gone; schedule and average follow."""
        self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.options.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update()

    def gather(self) -> tuple[Tensors, dict[str, Any]]:
        """Tensors and facts; whole on the first process, empty tensors on the others."""
        optimizer = get_optimizer_state_dict(self.wrapped, self.optimizer.optimizer, options=GATHERED)
        members = optimizer.get("state", {}).items()
        tensors = {
            "model": get_model_state_dict(self.wrapped, options=GATHERED),
            "optimizer": {f"{name}{MEMBER}{kind}": value for name, own in members for kind, value in own.items()},
        }
        facts = {"groups": optimizer.get("param_groups"), "schedule": _plain(self.schedule.state_dict())}
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
        """Make this run what `gather` saw."""
        if self.average is not None and "average" in tensors:
            set_model_state_dict(self.wrapped, tensors["average"], options=WHOLE_STATE)
            self.average.take(facts["average_updates"])
        state: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors["optimizer"].items():
            name, kind = key.split(MEMBER)
            state.setdefault(name, {})[kind] = value
        whole_state = {"state": state, "param_groups": facts["groups"]}
        set_optimizer_state_dict(self.wrapped, self.optimizer.optimizer, whole_state, options=WHOLE_STATE)
        set_model_state_dict(self.wrapped, tensors["model"], options=WHOLE_STATE)
        self.schedule.load_state_dict(facts["schedule"])
        if self.accelerator.scaler is not None and "scaler" in facts:
            self.accelerator.scaler.load_state_dict(facts["scaler"])


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """A schedule's state without its functions, which the settings bring back."""
    return state | {"lr_lambdas": [None for _ in state["lr_lambdas"]]} if "lr_lambdas" in state else state
