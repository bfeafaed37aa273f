"""All that a restart must bring back, saved and restored together.

Knows nothing about what each part keeps for it.
"""

from dataclasses import dataclass
from typing import Any

from accelerate import DistributedType
from accelerate.utils import gather_object

from ..base import Settings, claim, one_line, recover, say
from ..data import BadData
from .beginning import CAPTIONER_FOLDERS
from .checkpoints import CHECKPOINT_FILES, CheckpointError, Tensors, write_checkpoint
from .gradients import Gradients
from .identity import check_identity, identity
from .log import RunLog
from .place import Place
from .state import RunState
from .validation import Keeper


@dataclass
class Run:
    """Everything that a step changes."""

    settings: Settings
    state: RunState
    gradients: Gradients
    keeper: Keeper
    log: RunLog
    bad: BadData
    place: Place

    def save(self, step: int) -> None:
        """Write `last/` and a checkpoint; under DeepSpeed `last/` alone, for its state can only be pickled."""
        self.keeper.save_last()
        if self.state.accelerator.distributed_type == DistributedType.DEEPSPEED:
            return
        tensors, facts = self.state.gather()
        facts |= {
            "step": step,
            "losses": self.log.pending(),
            "parts": gather_object([self.gradients.parts]),
            "kept": self.keeper.facts(),
            "settings": self.settings.model_dump(),
            "captioner": self._identity(),
            "place": self.place.facts(step),
        }
        self.bad.share()
        self.bad.write()
        facts["bad"] = self.bad.facts()
        if self.state.accelerator.is_main_process:
            write_checkpoint(self.log.directory, step, tensors, facts, self.settings.training.save_total_limit)
        self.state.accelerator.wait_for_everyone()

    def _identity(self) -> dict[str, Any]:
        return identity(self.state.model, self.keeper.processor, self.settings.training.lora)

    def restore(self, tensors: Tensors, facts: dict[str, Any]) -> None:
        """Bring back what `save` wrote; says which settings are not those of then.

        Raises:
            CheckpointError: it is of another captioner.
        """
        for name in CAPTIONER_FOLDERS:
            if self.state.accelerator.is_main_process:
                recover(self.log.directory / name)
                claim(self.log.directory / name, CHECKPOINT_FILES)
        check_identity(facts.get("captioner", {}), self._identity() if "captioner" in facts else {}, facts["step"])
        try:
            self.state.restore(tensors, facts)
        except (RuntimeError, KeyError) as error:
            raise CheckpointError(
                f"checkpoint-{facts['step']} is of another captioner ({one_line(error)[:160]}); bring back its `model` "
                "and `data` settings, or begin another run with `model.init_from` and another `training.output_dir`"
            ) from error
        self.place.restore(facts.get("place"))
        self.log.restore(facts["losses"])
        self.keeper.restore(facts["kept"])
        self.bad.restore(facts.get("bad", ()))
        parts, process = facts["parts"], self.state.accelerator.process_index
        self.gradients.parts = parts[process] if process < len(parts) else max(parts)
        now = self.settings.model_dump()
        changed = [f"{s}.{key}" for s, own in facts["settings"].items() for key in own if now[s].get(key) != own[key]]
        say(f"going on after step {facts['step']}" + (f" with other {', '.join(changed)}" if changed else ""))
