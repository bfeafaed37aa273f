"""Accelerate as the launcher set it up, and what this package cannot do on some layouts of processes.

Knows nothing about models or data.
"""

import os
from typing import Any

from accelerate import Accelerator, DistributedType
from accelerate.utils import (
    DataLoaderConfiguration,
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    is_tensorboard_available,
)

from ..base import SCORING, SettingsError, TrainingSettings, one_line


def start_accelerator(options: TrainingSettings, resume: bool) -> Accelerator:
    """The accelerator of a run, with TensorBoard where it is installed.

    Raises:
        SettingsError: the settings, or `resume`, ask for what the layout cannot do.
    """
    try:
        accelerator = Accelerator(
            mixed_precision=options.mixed_precision,
            log_with=["tensorboard"] if is_tensorboard_available() else None,
            project_dir=options.output_dir,
            dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=options.seed),
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=SCORING),
                # a forward pass that one process repeats exchanges nothing; `Keeper` shares buffers where they count
                DistributedDataParallelKwargs(broadcast_buffers=False),
            ],
        )
    except ValueError as error:  # this machine cannot compute so
        raise SettingsError(f"`training.mixed_precision` is {options.mixed_precision}: {one_line(error)}") from error
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
        if resume:
            raise SettingsError("--resume does not work under DeepSpeed; use configs/accelerate/ddp.yaml or fsdp2.yaml")
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
