"""The Accelerate loop: cross-entropy on captions, validation by captioning, best and last checkpoint.

The loss of a step is normalised by the supervised tokens of its global batch, so that any split of that batch over
processes and micro-batches gives the same gradients.
"""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, is_tensorboard_available, set_seed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Subset
from transformers import get_scheduler
from transformers.trainer_utils import SchedulerType

from .adopt import assemble
from .data import CaptionDataset, Collator, load_split
from .evaluation import evaluate
from .model import Captioner
from .processor import CaptionerProcessor
from .progress import progress, say
from .settings import Settings, SettingsError, TrainingSettings


def train(settings: Settings) -> dict[str, float]:
    """Train a captioner and leave it in `training.output_dir`.

    1. data, then model and processor;
    2. optimiser and schedule; Accelerate takes them over;
    3. steps, with a line of `metrics.jsonl` for each log and each validation;
    4. `best/` after each validation that is the best so far, `last/` every `save_steps` and at the end.

    Returns:
        The scores of the best validation, with its `step`.

    Raises:
        SettingsError, DataError, AdoptError: what the settings ask for cannot be done.
    """
    options = settings.training
    accelerator = _accelerator(options)
    set_seed(options.seed)
    samples = load_split(settings.data, settings.data.train_split)
    validation = load_split(settings.data, settings.data.validation_split)
    model, processor = assemble(settings.model, settings.data, lambda: _texts(samples))
    if options.gradient_checkpointing:
        model.activation_checkpointing_enable()
    dataset = CaptionDataset(samples)
    loader = _loader(settings, dataset, processor, model)
    optimizer = torch.optim.AdamW(parameter_groups(model, options), betas=(options.adam_beta1, options.adam_beta2))
    schedule = _schedule(optimizer, options)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    log = RunLog(settings, accelerator)
    keeper = Keeper(settings, accelerator, model, processor, log)
    set_seed(options.seed, device_specific=True)

    steps = islice(_steps(loader, dataset, options.gradient_accumulation_steps), options.max_steps)
    for step, micro_batches in enumerate(progress(steps, "training", total=options.max_steps), start=1):
        wrapped.train()
        loss = backward(accelerator, wrapped, micro_batches, options.label_smoothing_factor)
        accelerator.clip_grad_norm_(wrapped.parameters(), options.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        keeper.average_weights()
        log.step(step, loss, schedule.get_last_lr()[0])
        if step % options.eval_steps == 0 or step == options.max_steps:
            keeper.validate(step, validation)
        if step % options.save_steps == 0 or step == options.max_steps:
            keeper.save("last")
    accelerator.end_training()
    return keeper.best


def _accelerator(options: TrainingSettings) -> Accelerator:
    """Accelerate as the launcher set it up; TensorBoard where it is installed."""
    return Accelerator(
        mixed_precision=None if options.mixed_precision == "no" else options.mixed_precision,
        log_with=["tensorboard"] if is_tensorboard_available() else None,
        project_dir=options.output_dir,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=options.seed),
    )


def _texts(samples: Any) -> Iterator[str]:
    """Every caption and context of a split, to train a tokenizer on; no picture is opened."""
    for row in samples.texts:
        yield from row["captions"]
        if row["context"]:
            yield row["context"]


def _loader(settings: Settings, samples: CaptionDataset, processor: CaptionerProcessor, model: Captioner) -> DataLoader:
    data, options = settings.data, settings.training
    if len(samples) < options.per_device_train_batch_size:
        raise SettingsError(
            f"`training.per_device_train_batch_size` is {options.per_device_train_batch_size}, but the training "
            f"split has only {len(samples)} samples; make it smaller"
        )
    return DataLoader(
        samples,
        batch_size=options.per_device_train_batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=options.dataloader_num_workers,
        persistent_workers=options.dataloader_num_workers > 0,
        collate_fn=Collator(processor, data.captions_per_image, data.augment, options.seed, model.config.modalities),
    )


def parameter_groups(model: Captioner, options: TrainingSettings) -> list[dict[str, Any]]:
    """Groups for the optimiser: the image encoder may have a rate of its own; only layers' matrices decay.

    A rate of 0 freezes the image encoder.
    """
    own_rate = options.image_encoder_learning_rate
    image_rate = options.learning_rate if own_rate is None else own_rate
    image = set() if model.encoder.image is None else set(model.encoder.image.parameters())
    embeddings = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        rate = image_rate if parameter in image else options.learning_rate
        parameter.requires_grad_(rate > 0)
        decays = parameter.ndim > 1 and parameter not in embeddings
        groups.setdefault((rate, options.weight_decay if decays else 0.0), []).append(parameter)
    return [{"params": own, "lr": rate, "weight_decay": d} for (rate, d), own in groups.items() if rate > 0]


def _schedule(optimizer: torch.optim.Optimizer, options: TrainingSettings) -> Any:
    names = [kind.value for kind in SchedulerType]
    if options.lr_scheduler_type not in names:
        raise SettingsError(
            f"`training.lr_scheduler_type` must be one of {names}, but is {options.lr_scheduler_type!r}"
        )
    return get_scheduler(options.lr_scheduler_type, optimizer, options.warmup_steps, options.max_steps)


def _steps(loader: DataLoader, dataset: CaptionDataset, accumulation: int) -> Iterator[list[dict[str, Tensor]]]:
    """The micro-batches of one optimiser step after the other, epoch after epoch."""

    def batches() -> Iterator[dict[str, Tensor]]:
        for epoch in count():
            loader.set_epoch(epoch)  # the order
            dataset.set_epoch(epoch)  # captions and crops; Accelerate forwards it only on a single process
            yield from loader

    stream = batches()
    while True:
        yield list(islice(stream, accumulation))


def backward(
    accelerator: Accelerator, model: nn.Module, micro_batches: list[dict[str, Tensor]], smoothing: float = 0.0
) -> Tensor:
    """Accumulate the gradients of one step; → its mean loss per supervised token of the global batch, a scalar.

    DDP averages gradients over processes, so each summed loss is scaled by their number over the global tokens.
    """
    tokens = sum((batch["labels"] != -100).sum() for batch in micro_batches)
    tokens = accelerator.reduce(tokens, reduction="sum")
    total = torch.zeros((), device=accelerator.device)
    for i, batch in enumerate(micro_batches):
        labels = batch.pop("labels")
        with accelerator.no_sync(model) if i + 1 < len(micro_batches) else nullcontext():
            logits = model(**batch).logits.flatten(0, 1).float()
            summed = F.cross_entropy(logits, labels.flatten(), reduction="sum", label_smoothing=smoothing)
            accelerator.backward(summed * accelerator.num_processes / tokens)
        total += summed.detach()
    return accelerator.reduce(total, reduction="sum") / tokens


class RunLog:
    """`metrics.jsonl` and TensorBoard: a line per logged step and per validation."""

    def __init__(self, settings: Settings, accelerator: Accelerator):
        self.accelerator, self.every = accelerator, settings.training.logging_steps
        self.directory = Path(settings.training.output_dir)
        self.file = self.directory / "metrics.jsonl"
        self.losses: list[Tensor] = []
        self.began = time.monotonic()
        if accelerator.is_main_process:
            self.directory.mkdir(parents=True, exist_ok=True)
            settings.save(self.directory / "settings.yaml")
            self.file.write_text("")
        accelerator.init_trackers("tensorboard")

    def step(self, step: int, loss: Tensor, rate: float) -> None:
        """Note a step's loss; every `logging_steps` their mean becomes a line."""
        self.losses.append(loss)
        if step % self.every == 0:
            mean = torch.stack(self.losses).mean().item()
            self.losses.clear()
            self.write(step, {"loss": mean, "learning_rate": rate})

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write one line now."""
        self.accelerator.log(values, step=step)
        if self.accelerator.is_main_process:
            line = {"step": step, "minutes": round((time.monotonic() - self.began) / 60, 3), **values}
            with self.file.open("a") as file:
                file.write(json.dumps(line) + "\n")


class Keeper:
    """The weights worth keeping: their moving average, the best by validation, the last."""

    def __init__(
        self,
        settings: Settings,
        accelerator: Accelerator,
        model: Captioner,
        processor: CaptionerProcessor,
        log: RunLog,
    ):
        self.settings, self.accelerator, self.log = settings, accelerator, log
        self.model, self.processor = model, processor
        self.average = _average(model, settings.training.average_decay)
        self.best: dict[str, float] = {}

    @property
    def kept(self) -> Captioner:
        """The captioner to validate and save."""
        return self.model if self.average is None else self.average.module

    def average_weights(self) -> None:
        """Move the average towards the weights after a step."""
        if self.average is not None:
            self.average.update_parameters(self.model)

    def validate(self, step: int, samples: Any) -> None:
        """Caption the validation split, log its scores, keep the captioner if it is the best so far."""
        options = self.settings.training
        limit = min(len(samples), options.max_eval_samples or len(samples))
        evaluation = evaluate(
            self.kept,
            self.processor,
            Subset(samples, range(limit)),
            self.settings.generation,
            batch_size=options.per_device_eval_batch_size,
            workers=options.dataloader_num_workers,
            accelerator=self.accelerator,
        )
        scores, metric = evaluation.scores, options.metric_for_best_model
        if metric not in scores:
            raise SettingsError(f"`training.metric_for_best_model` must be one of {sorted(scores)}, but is {metric!r}")
        self.log.write(step, scores)
        say(f"step {step}: " + "  ".join(f"{name} {value:.3f}" for name, value in scores.items()))
        if scores[metric] >= self.best.get(metric, -1.0):
            self.best = {"step": step, **scores}
            self.save("best")

    def save(self, name: str) -> None:
        """Write `output_dir/name` whole: into a directory beside it first, then renamed."""
        if self.accelerator.is_main_process:
            save_captioner(self.kept, self.processor, self.log.directory / name)
        self.accelerator.wait_for_everyone()


def save_captioner(model: Captioner, processor: CaptionerProcessor, directory: Path) -> None:
    """Save a captioner and its processor so that the directory is there whole or not at all."""
    fresh, old = directory.with_name(directory.name + ".new"), directory.with_name(directory.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(fresh)
    processor.save_pretrained(fresh)
    if directory.exists():
        shutil.rmtree(old, ignore_errors=True)
        directory.rename(old)
    fresh.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def _average(model: Captioner, decay: float) -> AveragedModel | None:
    """An average of the weights; while it is young it forgets faster, so that the start does not linger."""

    def blend(average: Tensor, new: Tensor, seen: Tensor) -> Tensor:
        return average.lerp(new, 1 - min(decay, (1 + float(seen)) / (10 + float(seen))))

    return AveragedModel(model, avg_fn=blend) if decay > 0 else None
