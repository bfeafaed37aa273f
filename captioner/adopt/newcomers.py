"""One modality more for a trained captioner: its encoder, and what the processor must know to feed it.

How the mode changes is in `model/switching.py`. The parameters of the cross-attention are new objects afterwards, so an
optimiser made before is of no use.
"""

from copy import copy
from functools import partial
from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from ..model import (
    Captioner,
    CaptionerConfig,
    CaptionerProcessor,
    ImageSettings,
    SwitchError,
    changed_config,
    rebuild_cross_attention,
)
from .parts import (
    Parts,
    context_configuration,
    load_pretrained_parts,
    modality_inputs,
    modality_shape,
    timm_encoder,
)
from .pretrained import load_part

Encoder = PreTrainedConfig | dict[str, Any] | str


def add_modality(
    model: Captioner,
    name: str,
    encoder: Encoder,
    processor: CaptionerProcessor | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Let a captioner of one modality attend to another through closed gates, so that no output changes at first.

    The mode becomes separate/gated. What was trained keeps its weights and its norm's place and gets no gate.

    Args:
        name: "context", "image", or any other name for a further modality.
        encoder: for a context, name or directory of a pretrained text encoder, or the configuration of a new one (a
            dict has `model_type`); for an image, a timm name with weights from the Hub, or a dict as `from_parts`
            takes it; for others, as `from_parts` takes `encoders`.
        processor: the captioner's, which then makes the new input too.
        tokenizer: of contexts; None: the pretrained encoder's, else that of captions.

    Raises:
        SwitchError: a modality that is already there or cannot be called so, or an encoder that does not fit the
            processor.
        PartsError: an encoder that cannot be loaded.
    """
    config = model.config
    if name in config.modalities:
        raise SwitchError(f"cannot add {name!r} to a captioner of {config.modalities}: it is there already")
    if name == "image" and isinstance(encoder, str):
        encoder = timm_encoder(encoder)
    shape, inputs = NEWCOMERS.get(name, partial(_new_further, name))(encoder, tokenizer, config, processor)
    asked = changed_config(config, **_as_option(name, shape, config), conditioning="separate", fusion="gated")
    if processor is not None:
        _check(processor, inputs, asked)
    donor = _donor(name, encoder, shape, model)
    config.decoder.ungated_modalities = config.mode.ungated(config)
    config.conditioning, config.fusion = asked.conditioning, asked.fusion
    for option, value in _as_option(name, donor.config.shapes[name], config).items():
        setattr(config, option, value)
    config.modality_order = asked.modality_order
    _move_in(model, donor, name)
    rebuild_cross_attention(model)
    if processor is not None:
        vars(processor).update(inputs)


def _check(processor: CaptionerProcessor, inputs: dict[str, Any], config: CaptionerConfig) -> None:
    """Make sure that the processor, once it makes these inputs too, fits the captioner to be."""
    candidate = copy(processor)
    vars(candidate).update(inputs)
    try:
        candidate.check_model(config)
    except ValueError as error:
        raise SwitchError(str(error)) from error


def _new_context(
    encoder: Encoder,
    tokenizer: PreTrainedTokenizerBase | None,
    config: CaptionerConfig,
    processor: CaptionerProcessor | None,
) -> tuple[PreTrainedConfig, dict[str, Any]]:
    """The configuration of a context encoder, and what the processor must know to feed it."""
    if isinstance(encoder, str) and tokenizer is None:
        tokenizer = load_part(AutoTokenizer, encoder)
    shape = context_configuration(encoder, config.decoder.vocab_size if tokenizer is None else len(tokenizer))
    inputs = {"context_tokenizer": tokenizer}
    positions = getattr(shape, "max_position_embeddings", None)
    if processor is not None and positions is not None:
        inputs["max_context_length"] = min(positions, processor.max_context_length)
    return shape, inputs


def _new_image(
    encoder: Encoder,
    tokenizer: PreTrainedTokenizerBase | None,
    config: CaptionerConfig,
    processor: CaptionerProcessor | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration of an image encoder, and what the processor must know to feed it."""
    shape = {key: value for key, value in encoder.items() if key != "pretrained"}
    return shape, {"image_settings": ImageSettings.for_encoder(shape)}


def _new_further(
    name: str,
    encoder: Encoder,
    tokenizer: PreTrainedTokenizerBase | None,
    config: CaptionerConfig,
    processor: CaptionerProcessor | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The shape of a further encoder, and what the processor must know to feed it."""
    shape = modality_shape(name, encoder)
    if processor is None:
        return shape, {}
    asked = changed_config(config, **_as_option(name, shape, config))
    return shape, {"further": processor.further | modality_inputs({name: encoder}, asked)}


def _as_option(name: str, shape: Any, config: CaptionerConfig | None = None) -> dict[str, Any]:
    """Where an encoder's shape stands in a configuration."""
    if name in NEWCOMERS:
        return {f"{name}_encoder": shape}
    return {"encoders": ({} if config is None else config.encoders) | {name: shape}}


NEWCOMERS = {"context": _new_context, "image": _new_image}


def _donor(name: str, encoder: Encoder, shape: Any, model: Captioner) -> Captioner:
    """A captioner of the new modality alone, with its encoder's weights and the projection to the memory's width."""
    decoder = {"vocab_size": 1, "max_positions": 1, "num_layers": 0, "num_heads": 1}
    decoder |= {key: getattr(model.config.decoder, key) for key in ("hidden_size", "initializer_range")}
    config = CaptionerConfig(
        **_as_option(name, shape), decoder=decoder, memory_width=next(iter(model.encoder.widths.values()))
    )
    donor = type(model)(config)
    load_pretrained_parts(donor, Parts(**_as_option(name, encoder)))
    return donor.to(model.device, model.dtype).train(model.training)


def _move_in(model: Captioner, donor: Captioner, name: str) -> None:
    """Move the donor's encoder to the model, with what transformers keeps about a model's parts."""
    ours, theirs = model.encoder, donor.encoder
    parent, _, child = ours.path(name).rpartition(".")
    setattr(ours.get_submodule(parent), child, theirs.parts[name])
    ours.projections[name] = theirs.projections[name]
    ours.order = model.config.modalities
    ours.widths = {part: (ours.widths | theirs.widths)[part] for part in ours.order}
    ours.all_tied_weights_keys |= theirs.all_tied_weights_keys
    model.all_tied_weights_keys |= {f"encoder.{k}": f"encoder.{v}" for k, v in theirs.all_tied_weights_keys.items()}
    model._no_split_modules |= donor._no_split_modules
