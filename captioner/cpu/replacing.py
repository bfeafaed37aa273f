"""Which layers of a decoder are replaced, and by what.

A layer is replaced only where it is exactly what its class says, and so is everything around it: adapters, quantised,
parametrized, hooked and wrapped layers stay as they are, inside and out. Knows no captioners and no modes.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import NamedTuple

from torch import nn
from transformers.activations import GELUActivation, GELUTanh

from ..model import (
    Attention,
    CrossAttention,
    DecoderBlock,
    FeedForward,
    GatedFeedForward,
    Mode,
    PostNorm,
    PreNorm,
    SelfAttention,
    Softmax,
    is_plain,
    is_unmodified,
)
from .attention import FastCrossAttention, FastSelfAttention
from .linear_maps import Direct, Packed, Transposed
from .products import onednn_is_wider

GELU = {GELUActivation: "none", GELUTanh: "tanh"}  # their formulas, as `F.gelu` calls them


class Plan(NamedTuple):
    """How layers are replaced.

    Args:
        rows: that are multiplied at once, images × beams.
        captions: of an image.
        key_value: bytes of keys and values that each attention to the memory may keep.
        copies: whether matrices may be copied.
    """

    rows: int
    captions: int
    key_value: int
    copies: bool = False

    def copied(self, parts: Sequence[nn.Linear], gelu: str | None = None) -> nn.Module | None:
        """Maps of one input as one layer with a copy of their matrices; None where that does not pay.

        `gelu`: the formula of one that follows; None: nothing does.
        """
        kind = Transposed if self.rows == 1 and not onednn_is_wider() else Packed
        return kind(parts, self.rows, gelu) if self.copies and kind.pays(parts) else None


def faster(module: nn.Module, plan: Plan) -> nn.Module:
    """What computes the same in the place of a layer that is known; any other layer itself."""
    replace = REPLACEMENTS.get(type(module))
    if isinstance(module, Mode) and module.calls_attentions:
        replace = _attentions
    return module if replace is None or not is_unmodified(module, type(module)) else replace(module, plan)


def around(module: nn.Module, children: Mapping[str, nn.Module]) -> nn.Module:
    """A module of the same class around other children, which shares all else; itself if they are its own."""
    if all(child is module.get_submodule(name) for name, child in children.items()):
        return module
    twin = copy(module)
    twin._modules = module._modules | children
    return twin


def copied_bytes(module: nn.Module) -> int:
    """Of the matrices that copies would be made of."""
    return sum(part.weight.nbytes for part in module.modules() if _only_multiplies(part))


def _only_multiplies(module: nn.Module) -> bool:
    """Whether it is a linear map in fp32 and nothing else."""
    return is_unmodified(module, nn.Linear) and all(map(is_plain, module.parameters()))


def _projects(attention: Attention) -> bool:
    """Whether all four projections are linear maps in fp32 and nothing else."""
    return all(map(_only_multiplies, (attention.query, attention.key, attention.value, attention.output)))


def _parts(module: nn.Module, plan: Plan) -> nn.Module:
    """Around all that is faster; for modules that call their children and read nothing of them."""
    return around(module, {name: faster(child, plan) for name, child in module.named_children()})


def _attentions(module: nn.Module, plan: Plan) -> nn.Module:
    """A mode, or a dict of layers in it, around faster attentions and residual connections; all else is its own."""
    children = {}
    for name, child in module.named_children():
        if is_unmodified(child, nn.ModuleDict):
            children[name] = _attentions(child, plan)
        elif isinstance(child, CrossAttention | PreNorm):
            children[name] = faster(child, plan)
    return around(module, children)


def _linear(linear: nn.Linear, plan: Plan, gelu: str | None = None) -> nn.Module:
    if not _only_multiplies(linear):
        return linear
    return plan.copied([linear], gelu) or Direct(linear, gelu)


def _dropout(dropout: nn.Dropout, plan: Plan) -> nn.Module:
    return dropout if dropout.training else nn.Identity()


def _feed_forward(layers: FeedForward, plan: Plan) -> nn.Module:
    """With GELU computed before the product in front of it is written."""
    children = dict(layers.named_children())
    widen, activation = children.get("0"), children.get("1")
    gelu = GELU.get(type(activation))
    if gelu is None or not is_unmodified(activation, type(activation)) or not _only_multiplies(widen):
        return _parts(layers, plan)
    fused = {"0": _linear(widen, plan, gelu), "1": nn.Identity()}
    return around(layers, {name: fused.get(name) or faster(child, plan) for name, child in children.items()})


def _self_attention(attention: SelfAttention, plan: Plan) -> nn.Module:
    """With one map for queries, keys and values, where a copy of the three pays."""
    if not _projects(attention):
        return _parts(attention, plan)
    merged = plan.copied((attention.query, attention.key, attention.value))
    if merged is None:
        return FastSelfAttention(_parts(attention, plan))
    return FastSelfAttention(around(attention, {"output": faster(attention.output, plan)}), merged)


def _cross_attention(attention: CrossAttention, plan: Plan) -> nn.Module:
    """Without a copy of what makes keys and values of a memory, once in a search."""
    plans = {"query": plan, "output": plan} | dict.fromkeys(("key", "value"), plan._replace(copies=False))
    own = around(attention, {name: faster(attention.get_submodule(name), plan) for name, plan in plans.items()})
    if type(attention.kind) is not Softmax or not _projects(attention) or attention.value.bias is None:
        return own
    return FastCrossAttention(own, plan.key_value, plan.captions)


REPLACEMENTS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.Linear: _linear,
    nn.Dropout: _dropout,
    CrossAttention: _cross_attention,
    SelfAttention: _self_attention,
    FeedForward: _feed_forward,
    **dict.fromkeys((DecoderBlock, GatedFeedForward, PreNorm, PostNorm), _parts),
}
