"""The Accelerate loop, readable from top to bottom: data, model, steps, validation, checkpoints.

Whatever a step draws follows from the seed and its number, and a run's state is saved exactly, so that a run which was
killed goes on as if nothing had happened.
"""

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from accelerate import Accelerator, DistributedType
from accelerate.utils import DataLoaderConfiguration, gather_object, is_tensorboard_available, set_seed

from ..adopt import assemble
from ..base import Settings, SettingsError, TrainingSettings, progress, recover, say
from ..data import (
    BAD_DATA_FILE,
    TRAINING,
    VALIDATION,
    BadData,
    Collator,
    MapPasses,
    Passes,
    StreamPasses,
    load_split,
    open_stream,
    steps,
)
from ..model import Captioner, CaptionerProcessor
from ..retrieval import retrieved
from .average import WeightAverage
from .checkpoints import CheckpointError, RunState, Tensors, checkpoints, read_checkpoint, step_of, write_checkpoint
from .feature_store import FeatureStore, StoredCollator, open_store
from .gradients import CrossEntropy, Gradients, Objective
from .log import RunLog
from .optimisation import add_adapters, build_optimizer, build_schedule, set_training_mode
from .self_critical import Reward, SelfCritical, document_frequencies
from .validation import Keeper


def train(settings: Settings, resume: bool = False) -> dict[str, float]:
    """Train a captioner and leave it in `training.output_dir`.

    1. data, then model and processor;
    2. optimiser and schedule; Accelerate takes them over;
    3. with `resume`, the newest checkpoint, if there is one;
    4. steps, with a line of `metrics.jsonl` for each log and each validation;
    5. `best/` after each validation that is the best so far; `last/` and a checkpoint every `save_steps`
       and at the end.

    Args:
        settings: of the run.
        resume: go on from the newest checkpoint in `output_dir`, bit for bit as if the run had not stopped.

    Returns:
        The scores of the best validation, with its `step`.

    Raises:
        SettingsError, DataError, PartsError, AdoptError: what the settings ask for cannot be done.
        CheckpointError: a checkpoint cannot be written or read, or one is there though `resume` is not set.
    """
    options = settings.training
    accelerator = _accelerator(options)
    if resume and accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise SettingsError("--resume does not work under DeepSpeed; use configs/accelerate/ddp.yaml or fsdp2.yaml")
    newest = _newest_checkpoint(Path(options.output_dir), resume)
    set_seed(options.seed)
    samples, validation, bad = _splits(settings)
    model, processor = assemble(settings.model, settings.data, lambda: _texts(samples))
    workers = options.dataloader_num_workers
    samples, validation = (retrieved(own, settings.data, model, workers, accelerator) for own in (samples, validation))
    if options.gradient_checkpointing:
        model.activation_checkpointing_enable()
    if options.lora is not None:
        add_adapters(model, options.lora)
    passes = _passes(settings, samples, processor, model, accelerator)
    optimizer = build_optimizer(model, options)
    schedule = build_schedule(optimizer, options)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    average = WeightAverage(wrapped, options.average_decay) if options.average_decay else None
    done = 0 if newest is None else step_of(newest)
    log = RunLog(settings, accelerator, done)
    keeper = Keeper(settings, accelerator, model, wrapped, processor, average, log, bad)
    objective = OBJECTIVES[options.objective](settings, model, processor, samples)
    gradients = Gradients(accelerator, wrapped, objective)
    run = Run(settings, RunState(accelerator, wrapped, optimizer, schedule, average), gradients, keeper, log, bad)
    if newest is not None:
        run.restore(*read_checkpoint(newest))

    left = 0 if keeper.stops else max(options.max_steps - done, 0)
    found = bad.of(TRAINING)
    batches = islice(steps(passes, options.gradient_accumulation_steps, done, found), left)
    for step, micro_batches in enumerate(progress(batches, "training", left), start=done + 1):
        set_seed(_step_seed(options.seed, step, accelerator.process_index))
        set_training_mode(wrapped, model, options)
        loss = gradients(micro_batches)
        accelerator.clip_grad_norm_(wrapped.parameters(), options.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if average is not None:
            average.update()
        log.step(step, loss, schedule.get_last_lr()[0])
        last = step == options.max_steps
        if step % options.logging_steps == 0 or last:
            bad.share()
        if step % options.eval_steps == 0 or last:
            keeper.validate(step, validation)
            last = last or keeper.stops
        if step % options.save_steps == 0 or last:
            run.save(step)
        if last:
            break
    bad.report()
    accelerator.end_training()
    return keeper.best


def _accelerator(options: TrainingSettings) -> Accelerator:
    """Accelerate as the launcher set it up; TensorBoard where it is installed."""
    accelerator = Accelerator(
        mixed_precision=None if options.mixed_precision == "no" else options.mixed_precision,
        log_with=["tensorboard"] if is_tensorboard_available() else None,
        project_dir=options.output_dir,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=options.seed),
    )
    for name in ("FSDP", "DEEPSPEED"):
        if os.environ.get(f"ACCELERATE_USE_{name}") == "true" and accelerator.distributed_type != name:
            raise SettingsError(
                f"the launcher asked for {name}, but Accelerate runs {accelerator.distributed_type.value} here; "
                "use a machine with GPUs, or configs/accelerate/ddp.yaml"
            )
    if accelerator.distributed_type == DistributedType.FSDP and options.objective == "self_critical":
        raise SettingsError(
            "self-critical training samples with whole models, but FSDP shards them; use configs/accelerate/ddp.yaml"
        )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        _set_deepspeed(accelerator.state.deepspeed_plugin, options)
    return accelerator


def _set_deepspeed(plugin: Any, options: TrainingSettings) -> None:
    """Hand over what DeepSpeed does by itself, and refuse what it would do otherwise than asked."""
    if plugin.zero_stage == 3 or options.gradient_accumulation_steps > 1:
        raise SettingsError(
            f"DeepSpeed runs here with `zero_stage` up to 2 and `training.gradient_accumulation_steps=1`, but they are "
            f"{plugin.zero_stage} and {options.gradient_accumulation_steps}; change them, or use "
            "configs/accelerate/fsdp2.yaml"
        )
    plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = options.per_device_train_batch_size
    plugin.deepspeed_config["gradient_clipping"] = options.max_grad_norm


def _newest_checkpoint(directory: Path, resume: bool) -> Path | None:
    """The checkpoint to go on from; None starts afresh."""
    found = checkpoints(directory)
    if found and not resume:
        raise CheckpointError(
            f"{directory} holds {found[-1].name} of an earlier run; add --resume to go on from it, set another "
            "`training.output_dir`, or remove it"
        )
    if resume and not found:
        say(f"nothing to resume in {directory}: starting afresh")
    return found[-1] if found else None


def _splits(settings: Settings) -> tuple[Any, Any, BadData]:
    """Training and validation samples, and what is wrong with them so far."""
    data, limit = settings.data, settings.training.max_eval_samples
    if data.streaming and limit is not None:
        limit = min(limit, data.limit or limit)
        validation = load_split(data.model_copy(update={"limit": limit}), data.validation_split)
    else:
        validation = load_split(data, data.validation_split)
    samples = (open_stream if data.streaming else load_split)(data, data.train_split)
    bad = BadData(data.max_bad_share, Path(settings.training.output_dir) / BAD_DATA_FILE)
    bad.begin(TRAINING, samples)
    bad.begin(VALIDATION, validation)
    return samples, validation, bad


def _cross_entropy(settings: Settings, *unused: Any) -> Objective:
    return CrossEntropy(settings.training.label_smoothing_factor)


def _self_critical(settings: Settings, model: Captioner, processor: CaptionerProcessor, samples: Any) -> Objective:
    options, reward = settings.training, Reward(document_frequencies(samples))
    longest = settings.generation.max_new_tokens
    return SelfCritical(model, processor, reward, options.self_critical, longest, options.seed)


OBJECTIVES = {"cross_entropy": _cross_entropy, "self_critical": _self_critical}


def _texts(samples: Any) -> Iterator[str]:
    """Every caption and context of a split, to train a tokenizer on; no picture is opened."""
    for row in samples.texts:
        yield from row["captions"]
        if row["context"]:
            yield row["context"]


def _store(
    settings: Settings, model: Captioner, processor: CaptionerProcessor, samples: Any, accelerator: Accelerator
) -> FeatureStore | None:
    """The store that the settings name, if the image encoder is frozen and sees every image the same way."""
    data, options = settings.data, settings.training
    if data.feature_store is None:
        return None
    if options.image_encoder_learning_rate != 0 or data.augment or model.encoder.image is None:
        raise SettingsError(
            "`data.feature_store` needs an image encoder, `training.image_encoder_learning_rate=0` and no "
            f"`data.augment`, but they are {settings.model.image_encoder}, {options.image_encoder_learning_rate} and "
            f"{data.augment}"
        )
    if processor.max_images > 1:
        raise SettingsError(
            f"`data.feature_store` keeps one image of a sample, but `max_images` is {processor.max_images}"
        )
    batch, workers = options.per_device_eval_batch_size, options.dataloader_num_workers
    return open_store(Path(data.feature_store), model, processor, samples, accelerator, batch, workers)


def _passes(
    settings: Settings, samples: Any, processor: CaptionerProcessor, model: Captioner, accelerator: Accelerator
) -> Passes:
    """The training split as batches, from the feature store if there is one."""
    data, options = settings.data, settings.training
    store = _store(settings, model, processor, samples, accelerator)
    references = None if options.objective == "self_critical" else data.captions_per_image
    modalities = [name for name in model.config.modalities if store is None or name != "image"]
    collator = Collator(processor, references, data.augment, options.seed, modalities)
    kind = StreamPasses if data.streaming else MapPasses
    collate = collator if store is None else StoredCollator(collator, store)
    return kind(samples, settings, collate, list(model.config.shapes), accelerator)


def _step_seed(seed: int, step: int, process: int) -> int:
    """What the generators start a step with: a restart needs no generator's state."""
    return random.Random(f"{seed} {step} {process}").getrandbits(32)


@dataclass
class Run:
    """Everything that a step changes, to be saved and brought back together."""

    settings: Settings
    state: RunState
    gradients: Gradients
    keeper: Keeper
    log: RunLog
    bad: BadData

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
        }
        self.bad.share()
        self.bad.write()
        facts["bad"] = self.bad.facts()
        if self.state.accelerator.is_main_process:
            write_checkpoint(self.log.directory, step, tensors, facts, self.settings.training.save_total_limit)
        self.state.accelerator.wait_for_everyone()

    def restore(self, tensors: Tensors, facts: dict[str, Any]) -> None:
        """Bring back what `save` wrote; says which settings are not those of then."""
        for name in ("best", "last"):
            recover(self.log.directory / name)
        self.state.restore(tensors, facts)
        self.log.restore(facts["losses"])
        self.keeper.restore(facts["kept"])
        self.bad.restore(facts.get("bad", ()))
        parts, process = facts["parts"], self.state.accelerator.process_index
        self.gradients.parts = parts[process] if process < len(parts) else max(parts)
        now = self.settings.model_dump()
        changed = [f"{s}.{key}" for s, own in facts["settings"].items() for key in own if now[s].get(key) != own[key]]
        say(f"going on after step {facts['step']}" + (f" with other {', '.join(changed)}" if changed else ""))
