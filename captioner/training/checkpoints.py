"""The exact state of a run on disk: written whole or not at all, rotated by count, read without executing anything.

Tensors lie in safetensors files under the names of their parameters, whatever the layout of processes; everything else
in `state.json`. Knows nothing about captions or scores.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim.lr_scheduler import LRScheduler

from ..base import one_line, whole
from ..model import Captioner, CaptionerProcessor, write_card
from .average import WeightAverage

GATHERED = StateDictOptions(full_state_dict=True, cpu_offload=True)
WHOLE = StateDictOptions(full_state_dict=True)
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
MEMBER = "::"  # between the name of a parameter and what the optimiser keeps for it

Tensors = dict[str, dict[str, Tensor]]


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, found or read; the message says which one is still good."""


def save_captioner(model: Captioner, processor: CaptionerProcessor, directory: Path, **card: Any) -> None:
    """Save a captioner, its processor and its card so that the directory is there whole or not at all.

    `card` is what `write_card` is to say: `data`, `metrics`, `base`.
    """
    with whole(directory) as fresh:
        model.save_pretrained(fresh)
        processor.save_pretrained(fresh)
        write_card(fresh, model.config, **card)


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints in a run's directory, oldest first."""
    return sorted((path for path in run.glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(CHECKPOINT.fullmatch(checkpoint.name)[1])


def write_checkpoint(run: Path, step: int, tensors: Tensors, facts: dict[str, Any], most: int | None) -> None:
    """Write `run/checkpoint-STEP`, then remove the oldest beyond `most`.

    Args:
        tensors: file → name → tensor.
        facts: what JSON can hold.
    """
    with whole(run / f"checkpoint-{step}") as fresh:
        for file, own in tensors.items():
            save_file(_apart(own), fresh / f"{file}.safetensors")
        (fresh / "state.json").write_text(json.dumps(facts))
    if most is not None:
        for path in checkpoints(run)[:-most]:
            shutil.rmtree(path)


def read_checkpoint(directory: Path) -> tuple[Tensors, dict[str, Any]]:
    """The tensors and facts of a checkpoint."""
    try:
        facts = json.loads((directory / "state.json").read_text())
        return {path.stem: load_file(path) for path in directory.glob("*.safetensors")}, facts
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot read {directory}: {one_line(error)}; remove it, and --resume goes on from the one before"
        ) from error


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without shared memory, which safetensors refuses: tied weights are copied."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if place in seen else tensor.contiguous()
        seen.add(place)
    return result


@dataclass
class RunState:
    """What the steps of a run change: weights, optimiser, schedule, loss scale and the weights' moving average.

    Its names are those of parameters, so that a run may go on with another number of processes. `gather` and `restore`
    are for all processes together; no generator's state is kept, because every step seeds its own.
    """

    accelerator: Accelerator
    model: nn.Module  # as Accelerate prepared it
    optimizer: AcceleratedOptimizer
    schedule: LRScheduler
    average: WeightAverage | None

    def gather(self) -> tuple[Tensors, dict[str, Any]]:
        """Tensors and facts; whole on the first process, empty tensors on the others."""
        optimizer = get_optimizer_state_dict(self.model, self.optimizer.optimizer, options=GATHERED)
        members = optimizer.get("state", {}).items()
        tensors = {
            "model": get_model_state_dict(self.model, options=GATHERED),
            "optimizer": {f"{name}{MEMBER}{kind}": value for name, own in members for kind, value in own.items()},
        }
        facts = {"groups": optimizer.get("param_groups"), "schedule": _plain(self.schedule.state_dict())}
        if self.accelerator.scaler is not None:
            facts["scaler"] = self.accelerator.scaler.state_dict()
        if self.average is not None:
            facts["average_updates"] = self.average.updates
            with self.average.in_place():
                tensors["average"] = {
                    n: t.clone() for n, t in get_model_state_dict(self.model, options=GATHERED).items()
                }
        return tensors, facts

    def restore(self, tensors: Tensors, facts: dict[str, Any]) -> None:
        """Make this run what `gather` saw."""
        if self.average is not None and "average" in tensors:
            set_model_state_dict(self.model, tensors["average"], options=WHOLE)
            self.average.take(facts["average_updates"])
        state: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors["optimizer"].items():
            name, kind = key.split(MEMBER)
            state.setdefault(name, {})[kind] = value
        whole_state = {"state": state, "param_groups": facts["groups"]}
        set_optimizer_state_dict(self.model, self.optimizer.optimizer, whole_state, options=WHOLE)
        set_model_state_dict(self.model, tensors["model"], options=WHOLE)
        self.schedule.load_state_dict(facts["schedule"])
        if self.accelerator.scaler is not None and "scaler" in facts:
            self.accelerator.scaler.load_state_dict(facts["scaler"])


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """A schedule's state without its functions, which the settings bring back."""
    return state | {"lr_lambdas": [None for _ in state["lr_lambdas"]]} if "lr_lambdas" in state else state
