"""From one conditioning mode to another, without losing what a trained captioner has learnt.

Knows configurations and blocks; what a mode is made of, and how it is put together again, is the mode's own affair. The
parameters of the cross-attention are new objects afterwards, so an optimiser made before is of no use.
"""

import warnings
from typing import Any

import torch
from transformers import PreTrainedModel

from .conditioning import Mode
from .configuration import CaptionerConfig


class SwitchError(ValueError):
    """A change that a captioner cannot make; the message says which it can."""


def switch_conditioning(model: PreTrainedModel, conditioning: str, fusion: str | None = None) -> None:
    """Change a `Captioner`'s mode in place; what each modality's attention and norm have learnt goes along.

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
    asked = changed_config(config, conditioning=conditioning, fusion=fusion)
    if asked.mode is config.mode:
        return
    config.conditioning, config.fusion = asked.conditioning, asked.fusion
    config.decoder.ungated_modalities = config.mode.ungated_after_switch(config)
    losses = rebuild_cross_attention(model)
    if losses:
        to = config.fusion or config.conditioning
        why = "; ".join(dict.fromkeys(losses))
        warnings.warn(f"outputs change with the switch to {to}, train before use: {why}", stacklevel=3)


def changed_config(config: CaptionerConfig, **changes: Any) -> CaptionerConfig:
    """A checked copy of the configuration with changes.

    Raises:
        SwitchError: a configuration that cannot be.
    """
    try:
        return CaptionerConfig.from_dict(config.to_dict() | changes)
    except ValueError as error:
        raise SwitchError(" ".join(str(error.__cause__ or error).split())) from error


def rebuild_cross_attention(model: PreTrainedModel) -> list[str]:
    """Give every block the cross-attention of the configuration, with all it can take over; → what was lost."""
    config, losses = model.config, []
    for layer, block in enumerate(model.decoder.blocks):
        old = block.cross_attention
        new = config.mode(config.decoder, model.encoder.widths, layer)
        for part in new.modules():
            model._init_weights(part)
        losses += take_over(old, new.to(model.device, model.dtype).train(block.training))
        block.cross_attention = new
    return losses


@torch.no_grad()
def take_over(old: Mode, new: Mode) -> list[str]:
    """Copy one mode's layers to another's; → why the two do not compute the same, empty if they do."""
    if type(old) is type(new):
        new.load_state_dict(old.state_dict(), strict=False)
        return []
    branches = old.branches()
    new.load_branches(branches)
    copies = new.branches()
    losses = []
    if len(branches) > 1 and old.combination != new.combination:
        losses.append(f"modalities were combined by {old.combination}, now by {new.combination}")
    if any(copies[name].order is not branch.order for name, branch in branches.items()):
        losses.append("the norms stand in another place")
    elif not all(copies[name].same(branch) for name, branch in branches.items()):
        losses.append("weights of the modalities that had become different were averaged")
    return losses
