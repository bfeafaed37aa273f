"""What the cross-attention of every mode is made of, and how one mode's becomes another's.

Knows layers and tensors; knows nothing about whole captioners.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .attention import Concatenated, Gated, Hierarchical, Joint, Parallel, Separate, Serial

State = dict[str, Tensor]  # a module's state dict
OPENING = 1.0  # of the gate before a branch that was trained without one; its output is divided by tanh of it


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
def take_over(old: nn.Module, new: nn.Module) -> list[str]:
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
