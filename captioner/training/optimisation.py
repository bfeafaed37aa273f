"""What of a captioner is trained, and how fast: parts with rates of their own, adapters, the schedule.

Knows nothing about data or loops. LoRA is PEFT's (Hu et al. 2021, arXiv 2106.09685).
"""

import copy
from inspect import signature
from typing import Any

from accelerate.utils import is_peft_available
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, get_scheduler
from transformers.trainer_utils import SchedulerType

from ..base import SettingsError, TrainingSettings, one_line, some
from ..model import Captioner

TRAINED_PARTS = ("image_encoder", "context_encoder", "decoder", "cross_attention", "encoders")
OWN_ARGUMENTS = {
    "optimizer",
    "num_warmup_steps",
    "num_training_steps",
    "last_epoch",
}  # of a schedule


def part_parameters(model: Captioner) -> dict[str, list[nn.Parameter]]:
    """Every parameter under the part it belongs to; what joins encoders and decoder counts as cross-attention."""
    encoder = model.encoder
    modules = {
        "image_encoder": [encoder.image],
        "context_encoder": [encoder.context],
        **{f"encoders.{name}": [part] for name, part in encoder.further.items()},
        "cross_attention": [
            encoder.projections,
            encoder.resamplers,
            encoder.image_places,
            *(block.cross_attention for block in model.decoder.blocks),
        ],
    }
    parts = {
        name: [p for module in own if module is not None for p in module.parameters()] for name, own in modules.items()
    }
    elsewhere = {p for own in parts.values() for p in own}
    return parts | {"decoder": [p for p in model.parameters() if p not in elsewhere]}


def part_rate(part: str, options: TrainingSettings) -> float:
    """The learning rate of a part; that of `encoders.NAME` may be given for all of them or by name."""
    rate = own_rate(part, options)
    return options.learning_rate if rate is None else rate


def own_rate(part: str, options: TrainingSettings) -> float | None:
    """The learning rate that a part has for itself."""
    section, _, name = part.partition(".")
    rate = getattr(options, f"{section}_learning_rate")
    return rate.get(name) if isinstance(rate, dict) else rate


def parameter_groups(model: Captioner, options: TrainingSettings) -> list[dict[str, Any]]:
    """Groups for the optimiser: each part may have a rate of its own; only layers' matrices decay.

    A rate of 0 freezes a part. In a part that has adapters only they are trained.

    Raises:
        SettingsError: nothing is left to train.
    """
    embeddings = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    adapters = adapter_parameters(model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for part, parameters in part_parameters(model).items():
        rate = part_rate(part, options)
        adapted = not adapters.isdisjoint(parameters)
        for parameter in parameters:
            parameter.requires_grad_(rate > 0 and (not adapted or parameter in adapters))
            if parameter.requires_grad:
                decays = parameter.ndim > 1 and parameter not in embeddings
                groups.setdefault((rate, options.weight_decay if decays else 0.0), []).append(parameter)
    if not groups:
        names = ", ".join(f"`training.{part}_learning_rate`" for part in TRAINED_PARTS)
        raise SettingsError(f"every part is frozen; give one of {names} a rate above 0")
    return [{"params": own, "lr": rate, "weight_decay": decay} for (rate, decay), own in groups.items()]


def check_rates(model: Captioner, options: TrainingSettings) -> None:
    """Make sure that each part with a rate of its own is there.

    Raises:
        SettingsError: one is not.
    """
    parts = part_parameters(model)
    there = {part.partition(".")[0] for part, own in parts.items() if own}
    for part in TRAINED_PARTS:
        if getattr(options, f"{part}_learning_rate") is not None and part not in there:
            raise SettingsError(f"`training.{part}_learning_rate` is set, but the captioner has no {part}; remove it")
    if isinstance(options.encoders_learning_rate, dict):
        unknown = sorted(options.encoders_learning_rate.keys() - model.encoder.further.keys())
        if unknown:
            raise SettingsError(
                f"`training.encoders_learning_rate` names {some(unknown)}, but `encoders` of the captioner are "
                f"{some(model.encoder.further)}"
            )


def set_training_mode(wrapped: nn.Module, model: Captioner, options: TrainingSettings) -> None:
    """Training mode but for frozen encoders: their batch norms and dropout stay as in captioning."""
    wrapped.train()
    encoder = model.encoder
    own = {"image_encoder": encoder.image, "context_encoder": encoder.context}
    own |= {f"encoders.{name}": part for name, part in encoder.further.items()}
    for part, module in own.items():
        if module is not None and part_rate(part, options) == 0:
            module.eval()


def build_optimizer(model: Captioner, options: TrainingSettings) -> Optimizer:
    """AdamW over `parameter_groups`, in one pass over the numbers of each parameter."""
    return AdamW(parameter_groups(model, options), betas=(options.adam_beta1, options.adam_beta2), fused=True)


def build_schedule(optimizer: Optimizer, options: TrainingSettings) -> LRScheduler:
    """Any of transformers' schedules that follow from the step alone.

    Raises:
        SettingsError: another schedule, or an option that it does not take.
    """
    kwargs = options.lr_scheduler_kwargs
    taken = _schedules().get(options.lr_scheduler_type)
    if taken is None:
        raise SettingsError(
            f"`training.lr_scheduler_type` must be one of {sorted(_schedules())}, but is {options.lr_scheduler_type!r}"
        )
    if not kwargs.keys() <= taken:
        raise SettingsError(
            f"`training.lr_scheduler_kwargs` is {kwargs}, but {options.lr_scheduler_type!r} takes {some(sorted(taken))}"
        )
    try:
        return get_scheduler(
            options.lr_scheduler_type,
            optimizer,
            options.warmup_steps,
            options.max_steps,
            scheduler_specific_kwargs=kwargs,
        )
    except (TypeError, ValueError) as error:
        raise SettingsError(f"`training.lr_scheduler_kwargs` is {kwargs}: {one_line(error)}") from error


def _schedules() -> dict[str, set[str]]:
    """The schedules that need nothing but steps, and the further options that each takes."""
    taken = {kind: set(signature(make).parameters) for kind, make in TYPE_TO_SCHEDULER_FUNCTION.items()}
    usable = {kind for kind, own in taken.items() if "num_warmup_steps" in own} | {SchedulerType.CONSTANT}
    return {kind.value: taken[kind] - OWN_ARGUMENTS for kind in usable}


def prepare_model(model: Captioner, options: TrainingSettings) -> None:
    """Let a captioner keep less of each layer and learn through adapters, where the options say so; in place.

    Raises:
        SettingsError: as from `add_adapters`.
    """
    if options.gradient_checkpointing:
        model.activation_checkpointing_enable()
    if options.lora is not None:
        add_adapters(model, options.lora)


def add_adapters(model: Captioner, lora: dict[str, Any]) -> None:
    """Put LoRA adapters into a captioner, in place.

    Args:
        lora: the options of `peft.LoraConfig`; `target_modules` as a string is a regular expression over module names.

    Raises:
        SettingsError: PEFT is not installed, or it refuses the options.
    """
    if not is_peft_available():
        raise SettingsError("`training.lora` needs PEFT; install it with `pip install 'captioner[lora]'`")
    from peft import LoraConfig, inject_adapter_in_model

    try:
        inject_adapter_in_model(LoraConfig(**lora), model)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"`training.lora` is {lora}: {one_line(error)}") from error


def adapted_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that hold adapters, by name."""
    if not is_peft_available():
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}


def adapter_parameters(model: nn.Module) -> set[nn.Parameter]:
    """The parameters that the adapters brought."""
    layers = adapted_modules(model).values()
    bases = {p for layer in layers for p in layer.get_base_layer().parameters()}
    return {p for layer in layers for p in layer.parameters()} - bases


def merged(model: Captioner) -> Captioner:
    """The captioner with its adapters multiplied into its weights, as a copy; itself where it has none."""
    if not adapted_modules(model):
        return model
    model = copy.deepcopy(model)
    for name, layer in adapted_modules(model).items():
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    return model
