"""A captioner as a search on a CPU runs it: the same numbers and parameters, faster layers. Knows no searches."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..model import Captioner, CrossAttention, Decoder, Memory, is_unmodified
from .layouts import LAYOUTS, Budget, LayoutError
from .products import onednn_is_wider, wide_products
from .replacing import Plan, around, copied_bytes, faster


class FastCaptioner(Captioner):
    """A captioner around another one's encoders, with a decoder and a vocabulary head of its own; for searching only.

    Args:
        model: the other one.
    """

    def __init__(self, model: Captioner, decoder: nn.Module, lm_head: nn.Module):
        PreTrainedModel.__init__(self, model.config)
        self.encoder, self.decoder, self.lm_head = model.encoder, decoder, lm_head
        self.generation_config, self.training = model.generation_config, model.training

    def encode(self, *args: Any, **kwargs: Any) -> Memory:
        """As of `Captioner`."""
        with wide_products(self.device):
            return super().encode(*args, **kwargs)


def prepared(model: Captioner, images: int, beams: int, layout: str = "auto") -> Captioner:
    """The same captioner, which encodes and searches faster; for searching only.

    Parameters and encoders are shared with `model`, but copies of matrices may be added, which later changes of the
    parameters do not reach. Layers that are not exactly what this room knows stay as they are. Returns `model` itself
    where nothing is gained: not on a CPU, not in fp32, without oneDNN, on another attention backend than SDPA; and if
    it is of a class derived from `Captioner`, or encodes otherwise.

    Args:
        images: of a batch.
        beams: or samples, of an image.
        layout: "fast" copies whatever pays; "small" copies nothing and keeps no keys and values of the memory, "auto"
            none that are large.

    Raises:
        LayoutError: an unknown layout.
    """
    if layout not in LAYOUTS:
        raise LayoutError(f"`layout` must be one of {', '.join(LAYOUTS)}, but is {layout!r}")
    if model.device.type != "cpu" or model.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return model
    if type(model) is not Captioner or "encode" in vars(model) or model.config.decoder._attn_implementation != "sdpa":
        return model
    with torch.no_grad():
        decoder, head = _decoder_and_head(model, images, beams, LAYOUTS[layout])
    if decoder is model.decoder and head is model.lm_head and not onednn_is_wider():
        return model
    return FastCaptioner(model, decoder, head)


def _decoder_and_head(model: Captioner, images: int, beams: int, budget: Budget) -> tuple[nn.Module, nn.Module]:
    """The vocabulary head first, then block after block while there are bytes left for copies."""
    attentions = sum(isinstance(part, CrossAttention) for part in model.decoder.modules())
    plan = Plan(images * beams, beams, budget.key_value // max(attentions, 1))
    decoder, left = model.decoder, budget.copies
    size = copied_bytes(model.lm_head)
    copies = size <= left
    head = faster(model.lm_head, plan._replace(copies=copies))
    left -= size if copies else 0
    if not is_unmodified(decoder, Decoder) or not is_unmodified(decoder.blocks, nn.ModuleList):
        return decoder, head
    blocks = {}
    for name, block in decoder.blocks.named_children():
        size = copied_bytes(block)
        copies = plan.rows <= budget.rows and size <= left
        blocks[name] = faster(block, plan._replace(copies=copies))
        left -= size if copies else 0
    return around(decoder, {"blocks": around(decoder.blocks, blocks)}), head
