"""The conditioning modes: six ways in which the decoder's stream attends to a memory of several modalities.

Each is one class that has all of `Mode`. A further mode is a class and its name in `MODES`; nothing else asks which one
is on, and no modality is named here. Sources: "flat", serial, parallel and hierarchical from Libovický, Helcl and
Mareček 2018 (arXiv 1811.04716), gated from Flamingo (arXiv 2204.14198). Shape letters: B, G, N = B·G, T, S, D, H as in
every file; d, the width of a head; M modalities.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import EncoderDecoderCache

from .attention import CrossAttention, cached, zero_absent
from .attention_kinds import KeyValue
from .branches import Branch, mean, scaled
from .conditioning import Mode
from .configuration import CaptionerConfig, DecoderConfig
from .layers import PreNorm, residual
from .memory import Memory
from .recorded import Recorded, Weights, by_mass, by_norm

OPENING = 1.0  # of the gate before a branch that was trained without one; its output is divided by tanh of it


class Concatenated(Mode):
    """x + A(LN x, [H_1; …; H_M]): one attention over every modality's states in one row."""

    combination = "one softmax"
    one_softmax = True
    calls_attentions = True

    def __init__(self, config: DecoderConfig, widths: dict[str, int], layer: int):
        super().__init__(config, widths, layer)
        if len(set(widths.values())) > 1:
            raise ValueError(f"concatenated memory needs one width, but the encoders give {widths}")
        self.order = list(widths)
        self.residual = residual(config)
        self.attention = CrossAttention(config, next(iter(widths.values())), layer, self.order[0])

    def forward(self, x: Tensor, memory: Memory, cache: EncoderDecoderCache | None = None) -> Tensor:
        """x (N, T, D) → (N, T, D)."""
        states, mask = memory.joined(self.order)
        return self.residual(x, lambda h: self.attention(h, states, mask, cache))

    def attributed(self, recorded: Recorded, memory: Memory) -> Weights:
        """The softmax, cut into the modalities'."""
        present = [name for name in self.order if name in memory.states]
        return by_mass(recorded.weights[self.attention], present, memory)

    def branches(self) -> dict[str, Branch]:
        """One for all."""
        branch = Branch(self.attention.state_dict(), self.residual.norm.state_dict(), type(self.residual))
        return dict.fromkeys(self.order, branch)

    def load_branches(self, branches: dict[str, Branch]) -> None:
        """The mean of all."""
        self.attention.load_state_dict(mean(branch.attention for branch in branches.values()))
        self.residual.norm.load_state_dict(mean(branch.norm for branch in branches.values()))


class Separate(Mode):
    """One cross-attention A_m per modality; what each mode below does with them is its `forward`."""

    calls_attentions = True

    def __init__(self, config: DecoderConfig, widths: dict[str, int], layer: int):
        super().__init__(config, widths, layer)
        first = layer * len(widths)
        self.attentions = nn.ModuleDict(
            {name: CrossAttention(config, width, first + i, name) for i, (name, width) in enumerate(widths.items())}
        )

    def present(self, memory: Memory) -> list[str]:
        """The modalities that this batch has, in the configured order."""
        return [name for name in self.attentions if name in memory.states]

    def branch(self, name: str, h: Tensor, memory: Memory, cache: EncoderDecoderCache | None) -> Tensor:
        """A_m(h, H_m): (N, T, D) → (N, T, D)."""
        return self.attentions[name](h, memory.states[name], memory.masks[name], cache)

    def attributed(self, recorded: Recorded, memory: Memory) -> Weights:
        """Each modality's softmax, scaled to its share of what is added."""
        added = {name: recorded.outputs[self.attentions[name]] for name in self.present(memory)}
        return by_norm(recorded, self.attentions, added)

    def load_branches(self, branches: dict[str, Branch]) -> None:
        """The attentions; norms are for each mode to place."""
        for name, branch in branches.items():
            self.attentions[name].load_state_dict(branch.attention)


class Serial(Separate):
    """x_i = x_{i-1} + A_i(LN_i x_{i-1}, H_i), in the configured order."""

    combination = "one step after the other"

    def __init__(self, config: DecoderConfig, widths: dict[str, int], layer: int):
        super().__init__(config, widths, layer)
        self.residuals = nn.ModuleDict({name: residual(config) for name in widths})

    def forward(self, x: Tensor, memory: Memory, cache: EncoderDecoderCache | None = None) -> Tensor:
        """x (N, T, D) → (N, T, D)."""
        for name, add in self.residuals.items():
            if name in memory.states:
                x = add(x, lambda h, name=name: self.branch(name, h, memory, cache))
            else:
                x = add(x, torch.zeros_like)
        return x

    def branches(self) -> dict[str, Branch]:
        """Each with a norm of its own."""
        return {
            name: Branch(self.attentions[name].state_dict(), add.norm.state_dict(), type(add))
            for name, add in self.residuals.items()
        }

    def load_branches(self, branches: dict[str, Branch]) -> None:
        """Attentions and norms as they are."""
        super().load_branches(branches)
        for name, branch in branches.items():
            self.residuals[name].norm.load_state_dict(branch.norm)


class Gated(Serial):
    """Serial with tanh(g_i) before each A_i, g_i starting at 0, so that a new captioner ignores its memory.

    A gated branch reads through its own norm in both block orders: only then is a closed gate the identity. The
    modalities of `config.ungated_modalities` are attended to as in `Serial`: a trained captioner keeps them as they
    were when another modality joins.
    """

    def __init__(self, config: DecoderConfig, widths: dict[str, int], layer: int):
        super().__init__(config, widths, layer)
        gated = [name for name in widths if name not in config.ungated_modalities]
        self.residuals.update({name: PreNorm(config) for name in gated})
        self.gates = nn.ModuleDict({name: Gate() for name in gated})

    def branch(self, name: str, h: Tensor, memory: Memory, cache: EncoderDecoderCache | None) -> Tensor:
        """tanh(g_m)·A_m(h, H_m): (N, T, D) → (N, T, D)."""
        attended = super().branch(name, h, memory, cache)
        return self.gates[name](attended) if name in self.gates else attended

    def attributed(self, recorded: Recorded, memory: Memory) -> Weights:
        """As in `Separate`; what counts is what comes through the gates."""
        last = {**self.attentions, **self.gates}
        return by_norm(recorded, self.attentions, {name: recorded.outputs[last[name]] for name in self.present(memory)})

    def branches(self) -> dict[str, Branch]:
        """A gate becomes part of the output projection that it scales."""
        branches = super().branches()
        for name, gate in self.gates.items():
            branches[name].attention = scaled(branches[name].attention, torch.tanh(gate.opening))
        return branches

    def load_branches(self, branches: dict[str, Branch]) -> None:
        """Trained branches get open gates, and outputs that make up for what an open gate takes away."""
        super().load_branches(branches)
        for name in self.gates.keys() & branches.keys():
            self.gates[name].opening.fill_(OPENING)
            self.attentions[name].load_state_dict(scaled(branches[name].attention, 1 / math.tanh(OPENING)))

    @classmethod
    def ungated(cls, config: CaptionerConfig) -> list[str]:
        """Those of the configuration."""
        return config.decoder.ungated_modalities

    @classmethod
    def ungated_after_switch(cls, config: CaptionerConfig) -> list[str]:
        """In post-norm blocks, all: a gated branch has its norm first, and trained ones have it last."""
        return config.modalities if config.decoder.norm_position == "post" else []


class Gate(nn.Module):
    """tanh(g)·x with one learned number g that starts at 0."""

    def __init__(self):
        super().__init__()
        self.opening = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Scale x (any shape)."""
        return torch.tanh(self.opening) * x


class Fused(Separate):
    """x + F(LN x): all modalities read through one norm, and what they add is made one by `fuse`."""

    def __init__(self, config: DecoderConfig, widths: dict[str, int], layer: int):
        super().__init__(config, widths, layer)
        self.residual = residual(config)

    def forward(self, x: Tensor, memory: Memory, cache: EncoderDecoderCache | None = None) -> Tensor:
        """x (N, T, D) → (N, T, D)."""
        return self.residual(x, lambda h: self.fuse(h, memory, cache))

    @abstractmethod
    def fuse(self, h: Tensor, memory: Memory, cache: EncoderDecoderCache | None) -> Tensor:
        """F: h (N, T, D) → (N, T, D)."""

    def branches(self) -> dict[str, Branch]:
        """Each with the one norm."""
        norm, order = self.residual.norm.state_dict(), type(self.residual)
        return {name: Branch(attention.state_dict(), norm, order) for name, attention in self.attentions.items()}

    def load_branches(self, branches: dict[str, Branch]) -> None:
        """Attentions as they are, the mean of the norms."""
        super().load_branches(branches)
        self.residual.norm.load_state_dict(mean(branch.norm for branch in branches.values()))


class Parallel(Fused):
    """x + Σ A_i(LN x, H_i)."""

    combination = "a sum"

    def fuse(self, h: Tensor, memory: Memory, cache: EncoderDecoderCache | None) -> Tensor:
        """Σ A_i(h, H_i)."""
        return sum(self.branch(name, h, memory, cache) for name in self.present(memory))


class Hierarchical(Fused):
    """x + A_h(LN x, {A_i(LN x, H_i)}_i): a second attention over the modalities' results.

    A modality that a sample lacks is masked in the second attention too.
    """

    combination = "attention over their results"

    def __init__(self, config: DecoderConfig, widths: dict[str, int], layer: int):
        super().__init__(config, widths, layer)
        self.over_modalities = CrossAttention(config, config.hidden_size, -1)

    def fuse(self, h: Tensor, memory: Memory, cache: EncoderDecoderCache | None) -> Tensor:
        """A_h(h, {A_i(h, H_i)}_i)."""
        names = self.present(memory)
        results = torch.stack([self.branch(name, h, memory, cache) for name in names], dim=2)  # (N, T, M, D)
        present = torch.stack([memory.masks[name].any(dim=-1) for name in names], dim=-1)  # (B, M)
        each_position = present.repeat_interleave(results[..., 0, 0].numel() // present.shape[0], dim=0)  # (N·T, M)
        fused = self.over_modalities(h.reshape(-1, 1, h.shape[-1]), results.flatten(0, 1), each_position, None)
        return fused.reshape(h.shape)

    def attributed(self, recorded: Recorded, memory: Memory) -> Weights:
        """As in `Separate`; the second attention's output is a sum over modalities, to which each adds α_m v_m W_O."""
        second, names = self.over_modalities, self.present(memory)
        weights, values = recorded.weights[second], recorded.values[second]  # (N·T, H, 1, M), (N·T, H, M, d)
        parts = weights.transpose(2, 3) * values  # (N·T, H, M, d)
        added = F.linear(parts.transpose(1, 2).flatten(2), second.output.weight)  # (N·T, M, D)
        shape = recorded.outputs[self.attentions[names[0]]].shape
        return by_norm(recorded, self.attentions, {name: added[:, i].reshape(shape) for i, name in enumerate(names)})

    def branches(self) -> dict[str, Branch]:
        """Attention over a single result is a linear map of it, which becomes part of the output projection."""
        branches = super().branches()
        if len(branches) == 1:
            (branch,) = branches.values()
            value, output = self.over_modalities.value, self.over_modalities.output
            weight, bias = branch.attention["output.weight"], branch.attention["output.bias"]
            folded = {"output.weight": output.weight @ value.weight @ weight, "output.bias": output(value(bias))}
            branch.attention = branch.attention | folded
        return branches

    def load_branches(self, branches: dict[str, Branch]) -> None:
        """The second attention starts as the plain mean of the modalities' results."""
        super().load_branches(branches)
        second = self.over_modalities
        for projection in (second.query, second.value, second.output):
            nn.init.zeros_(projection.bias)
        nn.init.zeros_(second.query.weight)
        nn.init.eye_(second.value.weight)
        nn.init.eye_(second.output.weight)


class Joint(Fused):
    """One softmax over all modalities' scores, with queries, keys, values and outputs of each modality's own.

    Heads are M·d wide: modality i has its queries, keys and values in slice i and zeros elsewhere, so one call of any
    backend scores every state by its own modality's query and keeps the results apart. The output bias is the mean of
    the modalities', so with their projections equal this *is* `Concatenated`.
    """

    combination = "one softmax"
    one_softmax = True
    calls_attentions = False

    def __init__(self, config: DecoderConfig, widths: dict[str, int], layer: int):
        super().__init__(config, widths, layer)
        self.entry = layer

    def fuse(self, h: Tensor, memory: Memory, cache: EncoderDecoderCache | None) -> Tensor:
        """One attention with the backend and the kind of the first modality here."""
        names = self.present(memory)
        parts = [self.attentions[name] for name in names]
        mask = torch.cat([memory.masks[name] for name in names], dim=1)
        kind = parts[0].kind
        key_value = cached(cache, self.entry, lambda: kind.key_value(*self._keys_and_values(names, memory), mask))
        folded = h.reshape(mask.shape[0], -1, h.shape[-1])  # (B, G·T, D)
        query = torch.cat([part.queries(folded) for part in parts], dim=-1)
        attended = kind.attend(query, key_value, mask, parts[0].dense)  # (B, G·T, H, M·d)
        return zero_absent(self._output(parts, attended), mask).reshape(h.shape)

    def _keys_and_values(self, names: Sequence[str], memory: Memory) -> KeyValue:
        """Each modality's (B, H, S_m, d) moved into its slice: keys and values (B, H, S, M·d)."""
        pairs = [self.attentions[name].keys_and_values(memory.states[name]) for name in names]
        keys, values = (
            torch.cat([_into_slice(part, i, len(names)) for i, part in enumerate(parts)], dim=2)
            for parts in zip(*pairs, strict=True)
        )
        return keys, values

    def _output(self, parts: Sequence[CrossAttention], attended: Tensor) -> Tensor:
        """Each modality's slice of (B, G·T, H, M·d) through its own output, and the mean bias → (B, G·T, D)."""
        slices = attended.unflatten(-1, (len(parts), -1)).unbind(-2)
        bias = torch.stack([attention.output.bias for attention in self.attentions.values()]).mean(dim=0)
        bias = reduce(torch.sub, [part.output.bias for part in parts], bias)  # less what the outputs add themselves
        return sum((part.output(own.flatten(2)) for own, part in zip(slices, parts, strict=True)), start=bias)

    def attributed(self, recorded: Recorded, memory: Memory) -> Weights:
        """The softmax, cut into the modalities'."""
        names = self.present(memory)
        return by_mass(recorded.weights[self.attentions[names[0]]], names, memory)


def _into_slice(x: Tensor, i: int, count: int) -> Tensor:
    """(…, d) → (…, count·d) with x in slice i and zeros elsewhere."""
    width = x.shape[-1]
    return F.pad(x, (i * width, (count - 1 - i) * width))


MODES: dict[tuple[str, str | None], type[Mode]] = {  # (conditioning, fusion); the first fusion is the default
    ("concatenated", None): Concatenated,
    ("separate", "serial"): Serial,
    ("separate", "parallel"): Parallel,
    ("separate", "hierarchical"): Hierarchical,
    ("separate", "gated"): Gated,
    ("separate", "joint"): Joint,
}
