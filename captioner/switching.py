"""Change how a trained captioner is conditioned, and on what, without losing what it has learnt.

Knows what every mode's cross-attention is made of; knows nothing about files or training. The parameters of the
cross-attention are new objects afterwards, so an optimiser made before is of no use.
"""

import math
import warnings
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from .attention import MODES, Concatenated, Gated, Hierarchical, Joint, Parallel, Separate, Serial
from .configuration import CaptionerConfig, DecoderConfig
from .images import ImageSettings
from .parts import context_configuration, load_pretrained_parts, pretrained
from .wording import one_line

if TYPE_CHECKING:
    from .model import Captioner
    from .processor import CaptionerProcessor

    Encoder = PreTrainedConfig | dict[str, Any] | str

State = dict[str, Tensor]  # a module's state dict
OPENING = 1.0  # of the gate before a branch that was trained without one; its output is divided by tanh of it


class SwitchError(ValueError):
    """A change that a captioner cannot make; the message says which it can."""


def switch_conditioning(model: "Captioner", conditioning: str, fusion: str | None = None) -> None:
    """Change the conditioning mode in place; what each modality's attention and norm have learnt goes along.

    Outputs stay as they are from concatenated to joint, back while the modalities are still tied, between serial and
    gated, and wherever there is one modality. In post-norm blocks, gated leaves trained modalities without a gate:
    gated branches have their norm first, so there, switching from open gates to another mode changes outputs.

    Args:
        conditioning, fusion: as in `CaptionerConfig`.

    Warns:
        UserWarning: outputs change, and why.

    Raises:
        SwitchError: an unknown mode.
    """
    config = model.config
    asked = _changed(config, conditioning=conditioning, fusion=fusion)
    if (asked.conditioning, asked.fusion) == (config.conditioning, config.fusion):
        return
    config.conditioning, config.fusion = asked.conditioning, asked.fusion
    stay_ungated = config.fusion == "gated" and config.decoder.norm_position == "post"
    config.decoder.ungated_modalities = config.modalities if stay_ungated else []
    losses = _rebuild(model)
    if losses:
        to = config.fusion or config.conditioning
        why = "; ".join(dict.fromkeys(losses))
        warnings.warn(f"outputs change with the switch to {to}, train before use: {why}", stacklevel=3)


def add_modality(
    model: "Captioner",
    name: str,
    encoder: "Encoder",
    processor: "CaptionerProcessor | None" = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Let a captioner of one modality attend to another through closed gates, so that no output changes at first.

    The mode becomes separate/gated. What was trained keeps its weights and its norm's place and gets no gate.

    Args:
        name: "context" or "image".
        encoder: for a context, name or directory of a pretrained text encoder, or the configuration of a new one (a
            dict has `model_type`); for an image, a timm name with weights from the Hub, or a dict as `from_parts`
            takes it.
        processor: the captioner's, which then makes the new input too.
        tokenizer: of contexts; None: the pretrained encoder's, else that of captions.

    Raises:
        SwitchError: a modality that is unknown or already there, or an encoder that does not fit the processor.
        PartsError: an encoder that cannot be loaded.
    """
    config = model.config
    if name not in NEWCOMERS or name in config.modalities:
        raise SwitchError(
            f"cannot add {name!r} to a captioner of {config.modalities}: it must be one of {sorted(NEWCOMERS)} "
            "that is not there yet"
        )
    shape, inputs = NEWCOMERS[name](encoder, tokenizer, config, processor)
    changed = _changed(config, **{f"{name}_encoder": shape}, conditioning="separate", fusion="gated")
    if processor is not None:
        _check(processor, inputs, changed)
    donor = _donor(name, encoder, shape, model)
    if config.fusion != "gated":
        config.decoder.ungated_modalities = config.modalities
    config.conditioning, config.fusion = changed.conditioning, changed.fusion
    setattr(config, f"{name}_encoder", getattr(donor.config, f"{name}_encoder"))
    _move_in(model, donor, name)
    _rebuild(model)
    if processor is not None:
        vars(processor).update(inputs)


def _changed(config: CaptionerConfig, **changes: Any) -> CaptionerConfig:
    """A checked copy of the configuration with changes."""
    try:
        return CaptionerConfig.from_dict(config.to_dict() | changes)
    except ValueError as error:
        raise SwitchError(one_line(error)) from error


def _check(processor: "CaptionerProcessor", inputs: dict[str, Any], config: CaptionerConfig) -> None:
    """Make sure that the processor, once it makes these inputs too, fits the captioner to be."""
    candidate = copy(processor)
    vars(candidate).update(inputs)
    try:
        candidate.check_model(config)
    except ValueError as error:
        raise SwitchError(str(error)) from error


def _new_context(
    encoder: "Encoder",
    tokenizer: PreTrainedTokenizerBase | None,
    config: CaptionerConfig,
    processor: "CaptionerProcessor | None",
) -> tuple[PreTrainedConfig, dict[str, Any]]:
    """The configuration of a context encoder, and what the processor must know to feed it."""
    if isinstance(encoder, str) and tokenizer is None:
        tokenizer = pretrained(AutoTokenizer, encoder)
    shape = context_configuration(encoder, config.decoder.vocab_size if tokenizer is None else len(tokenizer))
    inputs = {"context_tokenizer": tokenizer}
    positions = getattr(shape, "max_position_embeddings", None)
    if processor is not None and positions is not None:
        inputs["max_context_length"] = min(positions, processor.max_context_length)
    return shape, inputs


def _new_image(
    encoder: "Encoder",
    tokenizer: PreTrainedTokenizerBase | None,
    config: CaptionerConfig,
    processor: "CaptionerProcessor | None",
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration of an image encoder, and what the processor must know to feed it."""
    shape = {"name": encoder} if isinstance(encoder, str) else {k: v for k, v in encoder.items() if k != "pretrained"}
    return shape, {"image_settings": ImageSettings.for_encoder(shape)}


NEWCOMERS = {"context": _new_context, "image": _new_image}


def _donor(name: str, encoder: "Encoder", shape: Any, model: "Captioner") -> "Captioner":
    """A captioner of the new modality alone, with its encoder's weights and the projection to the model's width."""
    decoder = {"vocab_size": 1, "max_positions": 1, "num_layers": 0, "num_heads": 1}
    decoder |= {key: getattr(model.config.decoder, key) for key in ("hidden_size", "initializer_range")}
    donor = type(model)(CaptionerConfig(**{f"{name}_encoder": shape}, decoder=decoder))
    if name == "image":
        encoder = {"name": encoder, "pretrained": True} if isinstance(encoder, str) else encoder
    given = {"image": None, "context": None, name: encoder}
    load_pretrained_parts(donor, given["image"], given["context"], {})
    return donor.to(model.device, model.dtype).train(model.training)


def _move_in(model: "Captioner", donor: "Captioner", name: str) -> None:
    """Move the donor's encoder to the model, with what transformers keeps about a model's parts."""
    ours, theirs = model.encoder, donor.encoder
    setattr(ours, name, getattr(theirs, name))
    ours.projections[name] = theirs.projections[name]
    ours.order = model.config.modalities
    ours.widths = dict.fromkeys(ours.order, model.config.decoder.hidden_size)
    ours.all_tied_weights_keys |= theirs.all_tied_weights_keys
    model.all_tied_weights_keys |= {f"encoder.{k}": f"encoder.{v}" for k, v in theirs.all_tied_weights_keys.items()}
    model._no_split_modules |= donor._no_split_modules


def _rebuild(model: "Captioner") -> list[str]:
    """Give every block the cross-attention of the configuration, with all it can take over; → what was lost."""
    config, losses = model.config, []
    for layer, block in enumerate(model.decoder.blocks):
        old = block.cross_attention
        new = MODES[config.conditioning, config.fusion](config.decoder, model.encoder.widths, layer)
        for part in new.modules():
            model._init_weights(part)
        losses += _take_over(old, new.to(model.device, model.dtype).train(block.training))
        block.cross_attention = new
    return losses


@dataclass
class Branch:
    """One modality's cross-attention, whatever the mode: states of attention and norm, and where the norm stands."""

    attention: State
    norm: State
    order: type

    def same(self, other: "Branch") -> bool:
        """Whether the two compute the same, but for rounding."""
        pairs = [(self.attention, other.attention), (self.norm, other.norm)]
        return self.order is other.order and all(
            torch.allclose(own[key], theirs[key], rtol=1e-6) for own, theirs in pairs for key in own
        )


@torch.no_grad()
def _take_over(old: nn.Module, new: nn.Module) -> list[str]:
    """Copy one mode's layers to another's; → why the two do not compute the same, empty if they do."""
    if type(old) is type(new):
        new.load_state_dict(old.state_dict(), strict=False)
        return []
    branches = READERS[type(old)](old)
    WRITERS[type(new)](new, branches)
    copies = READERS[type(new)](new)
    losses = []
    if len(branches) > 1 and COMBINATIONS[type(old)] != COMBINATIONS[type(new)]:
        losses.append(f"modalities were combined by {COMBINATIONS[type(old)]}, now by {COMBINATIONS[type(new)]}")
    if any(copies[name].order is not branch.order for name, branch in branches.items()):
        losses.append("the norms stand in another place")
    elif not all(copies[name].same(branch) for name, branch in branches.items()):
        losses.append("weights of the modalities that had become different were averaged")
    return losses


def _read_concatenated(mode: Concatenated) -> dict[str, Branch]:
    branch = Branch(mode.attention.state_dict(), mode.residual.norm.state_dict(), type(mode.residual))
    return dict.fromkeys(mode.order, branch)


def _read_separate(mode: Parallel | Hierarchical | Joint) -> dict[str, Branch]:
    norm = mode.residual.norm.state_dict()
    return {
        name: Branch(attention.state_dict(), norm, type(mode.residual)) for name, attention in mode.attentions.items()
    }


def _read_serial(mode: Serial) -> dict[str, Branch]:
    return {
        name: Branch(mode.attentions[name].state_dict(), add.norm.state_dict(), type(add))
        for name, add in mode.residuals.items()
    }


def _read_gated(mode: Gated) -> dict[str, Branch]:
    """A gate becomes part of the output projection that it scales."""
    branches = _read_serial(mode)
    for name, gate in mode.gates.items():
        branches[name].attention = _scaled(branches[name].attention, torch.tanh(gate.opening))
    return branches


def _read_hierarchical(mode: Hierarchical) -> dict[str, Branch]:
    """Attention over a single result is a linear map of it, which becomes part of the output projection."""
    branches = _read_separate(mode)
    if len(branches) == 1:
        (branch,) = branches.values()
        value, output = mode.over_modalities.value, mode.over_modalities.output
        weight, bias = branch.attention["output.weight"], branch.attention["output.bias"]
        folded = {"output.weight": output.weight @ value.weight @ weight, "output.bias": output(value(bias))}
        branch.attention = branch.attention | folded
    return branches


def _write_concatenated(mode: Concatenated, branches: dict[str, Branch]) -> None:
    mode.attention.load_state_dict(_mean(branch.attention for branch in branches.values()))
    mode.residual.norm.load_state_dict(_mean(branch.norm for branch in branches.values()))


def _write_attentions(mode: Separate, branches: dict[str, Branch]) -> None:
    for name, branch in branches.items():
        mode.attentions[name].load_state_dict(branch.attention)


def _write_separate(mode: Parallel | Joint, branches: dict[str, Branch]) -> None:
    _write_attentions(mode, branches)
    mode.residual.norm.load_state_dict(_mean(branch.norm for branch in branches.values()))


def _write_serial(mode: Serial, branches: dict[str, Branch]) -> None:
    _write_attentions(mode, branches)
    for name, branch in branches.items():
        mode.residuals[name].norm.load_state_dict(branch.norm)


def _write_gated(mode: Gated, branches: dict[str, Branch]) -> None:
    """Trained branches get open gates, and outputs that make up for what an open gate takes away."""
    _write_serial(mode, branches)
    for name in mode.gates.keys() & branches.keys():
        mode.gates[name].opening.fill_(OPENING)
        attention = _scaled(branches[name].attention, 1 / math.tanh(OPENING))
        mode.attentions[name].load_state_dict(attention)


def _write_hierarchical(mode: Hierarchical, branches: dict[str, Branch]) -> None:
    """The second attention starts as the plain mean of the modalities' results."""
    _write_separate(mode, branches)
    second = mode.over_modalities
    for projection in (second.query, second.value, second.output):
        nn.init.zeros_(projection.bias)
    nn.init.zeros_(second.query.weight)
    nn.init.eye_(second.value.weight)
    nn.init.eye_(second.output.weight)


def _scaled(attention: State, factor: Tensor | float) -> State:
    """The state of an attention whose output is multiplied by a number."""
    return attention | {key: attention[key] * factor for key in ("output.weight", "output.bias")}


def _mean(states: Iterable[State]) -> State:
    states = list(states)
    return {key: torch.stack([state[key] for state in states]).mean(dim=0) for key in states[0]}


# mode → what each modality's branch is, how branches are put in, and how results are combined
READERS = {
    Concatenated: _read_concatenated,
    Serial: _read_serial,
    Parallel: _read_separate,
    Hierarchical: _read_hierarchical,
    Gated: _read_gated,
    Joint: _read_separate,
}
WRITERS = {
    Concatenated: _write_concatenated,
    Serial: _write_serial,
    Parallel: _write_separate,
    Hierarchical: _write_hierarchical,
    Gated: _write_gated,
    Joint: _write_separate,
}
COMBINATIONS = {
    Concatenated: "one softmax",
    Serial: "one step after the other",
    Parallel: "a sum",
    Hierarchical: "attention over their results",
    Gated: "one step after the other",
    Joint: "one softmax",
}
