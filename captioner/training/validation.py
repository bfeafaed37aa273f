"""Validation by captioning, and the weights worth keeping: the best by its score, the last.

Knows nothing about how weights are trained.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import DistributedType
from accelerate.utils import broadcast
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.utils.data import Subset

from ..base import DataSettings, Settings, SettingsError, say
from ..data import VALIDATION, BadData, Split
from ..evaluation import (
    BorrowedMetrics,
    Evaluation,
    EvaluationOptions,
    check_weights,
    evaluate,
    remarks,
    score_names,
)
from ..metrics import training_signature
from ..model import Captioner, CaptionerProcessor
from .checkpoints import save_captioner
from .divergence import last_good
from .log import RunLog, captioned_pictures
from .optimisation import add_adapters, merged
from .state import RunState


class Keeper:
    """Validates and saves what a run has learnt.

    Args:
        state: of the captioner that is trained; if it has an average, that is validated and saved instead.
        log: takes the scores; captioners are saved beside it.
        bad: takes what is wrong with validation samples.
        borrowed: metrics beyond our own.
    """

    def __init__(
        self,
        settings: Settings,
        state: RunState,
        processor: CaptionerProcessor,
        log: RunLog,
        bad: BadData,
        borrowed: BorrowedMetrics,
    ):
        self.settings, self.state, self.processor, self.log, self.bad = settings, state, processor, log, bad
        self.accelerator, self.borrowed = state.accelerator, borrowed
        self.best: dict[str, float] = {}
        self.waited = 0

    @property
    def stops(self) -> bool:
        """Whether the last `early_stopping_patience` validations brought nothing better."""
        patience = self.settings.training.early_stopping_patience
        return patience is not None and self.waited >= patience

    @contextmanager
    def captioner(self) -> Iterator[Captioner]:
        """The captioner to validate and save: averaged, whole on every process, adapters merged."""
        average = self.state.average
        with average.in_place() if average is not None else nullcontext():
            self._share_buffers()
            sharded = self.accelerator.distributed_type == DistributedType.FSDP
            captioner = merged(self._gathered() if sharded else self.state.model)
            check_weights(captioner, last_good(self.log.directory))
            yield captioner

    def _share_buffers(self) -> None:
        """What batch norms have seen on the first process counts on all of them."""
        if self.accelerator.num_processes > 1:
            for buffer in self.state.model.buffers():
                if buffer.is_floating_point():
                    broadcast(buffer)

    def _gathered(self) -> Captioner:
        """A copy with all weights, where each process trains only its share of them."""
        state = get_model_state_dict(self.state.wrapped, options=StateDictOptions(full_state_dict=True))
        whole = Captioner(self.state.model.config)
        whole.generation_config = self.state.model.generation_config
        if self.settings.training.lora is not None:
            add_adapters(whole, self.settings.training.lora)
        whole.load_state_dict(state)
        return whole.to(self.accelerator.device)

    def validate(self, step: int, samples: Split) -> None:
        """Caption the validation split, log its scores, keep the captioner if it is the best so far."""
        options = self.settings.training
        limit = min(len(samples), options.max_eval_samples or len(samples))
        with self.captioner() as captioner:
            measured = Subset(samples, range(limit))
            how = self._evaluation(limit)
            with self.accelerator.autocast():
                evaluation = evaluate(captioner, self.processor, measured, self.settings.generation, how)
            if self.accelerator.is_main_process:  # every process has all of them
                self.bad.of(VALIDATION).extend(evaluation.bad)
            self.log.write(step, evaluation.scores, **self._signatures(evaluation))
            self.log.show(step, captioned_pictures(evaluation.records[: options.logged_samples], samples))
            say(f"step {step}: " + "  ".join(f"{name} {value:.3f}" for name, value in evaluation.scores.items()))
            for remark in remarks(evaluation.records):
                say(f"step {step}: {remark}")
            if self._is_best(step, evaluation.scores):
                self._save(captioner, "best")

    def _evaluation(self, limit: int) -> EvaluationOptions:
        return EvaluationOptions(
            batch_size=self.settings.training.per_device_eval_batch_size,
            workers=self.settings.training.dataloader_num_workers,
            split=self._split(limit),
            data=self.settings.data.name,
            task=self.settings.data.task,
            borrowed=self.borrowed,
            accelerator=self.accelerator,
        )

    def _split(self, limit: int) -> str:
        name, most = self.settings.data.validation_split, self.settings.training.max_eval_samples
        return name if most is None else f"{name}[:{limit}]"

    def _signatures(self, evaluation: Evaluation) -> dict[str, str]:
        options = self.settings.training
        critical = options.objective == "self_critical"
        trained = {"training_signature": training_signature(options)} if critical else {}
        return {"signature": evaluation.signature, **trained}

    def _is_best(self, step: int, scores: dict[str, float]) -> bool:
        """Count validations without a better score; → whether none before was better."""
        metric = self.settings.training.metric_for_best_model
        _check_metric(metric, scores)
        record = self.best.get(metric, -1.0)
        self.waited = 0 if scores[metric] > record else self.waited + 1
        if not scores[metric] >= record:
            return False
        self.best = {"step": step, **scores}
        return True

    def save_last(self) -> None:
        """Write the captioner as it is now."""
        with self.captioner() as captioner:
            self._save(captioner, "last")

    def _save(self, captioner: Captioner, name: str) -> None:
        if self.accelerator.is_main_process:
            metrics = self.best if name == "best" else None
            data = _described(self.settings.data)
            save_captioner(captioner, self.processor, self.log.directory / name, data=data, metrics=metrics)
        self.accelerator.wait_for_everyone()

    def facts(self) -> dict[str, Any]:
        """What a restart must know."""
        return {"best": self.best, "waited": self.waited}

    def restore(self, facts: dict[str, Any]) -> None:
        """Go on from what `facts` said."""
        self.best, self.waited = facts["best"], facts["waited"]


def borrowed_metrics(settings: Settings, device: torch.device) -> BorrowedMetrics:
    """The metrics of validations beyond our own, after a trial, so that a run does not end for one after hours.

    Raises:
        SettingsError: captions are to be judged by a metric that is not among those measured.
        BorrowedMetricError: a metric lacks its program, package or model.
    """
    options = settings.training
    _check_metric(options.metric_for_best_model, score_names(settings.data.task, options))
    return BorrowedMetrics(options, device)


def _check_metric(metric: str, measured: Collection[str]) -> None:
    if metric not in measured:
        raise SettingsError(f"`training.metric_for_best_model` must be one of {sorted(measured)}, but is {metric!r}")


def _described(data: DataSettings) -> str:
    """Training data in a few words, without the folders of this machine."""
    name = data.name if data.path else ""
    return f"the {data.train_split} split of {data.source} {name}".strip()
