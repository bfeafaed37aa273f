"""What attending to a memory costs, by its length: `python benchmarks/memory.py [PLOT]` prints the tables of memory.md.

One cross-attention of width 512 with 8 heads, 8 images × 5 captions, random weights, one thread. A *decoding step* is
one new token for each caption, from what is held of the memory to the attended values, so without the projections,
which are the same for all; beside it, what is held. A *training step* is 20 tokens of each caption through the whole
cross-attention, forward and backward, to the memory's states too; beside it, the most memory that it adds. Times are
of the processor, not of the clock, the median of some rounds, so that other work on the machine disturbs less.
"""

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from captioner.model import CrossAttention, DecoderConfig
from captioner.model.reduction import Resampler

IMAGES, CAPTIONS, TOKENS, WIDTH, HEADS = 8, 5, 20, 512, 8
LENGTHS = (50, 200, 800, 3200, 12800)
SDPA = "PyTorch's SDPA"
MEMORIES = {
    "softmax": {"kind": "softmax"},
    "topk, 8 blocks of 32": {"kind": "topk", "block_size": 32, "blocks": 8},
    "linear": {"kind": "linear"},
    "resampler, 64 latents": {"kind": "softmax"},
}
COLOURS = {SDPA: "#777d88", **dict(zip(MEMORIES, ("#2f6fd6", "#e8891a", "#2a9d5c", "#a23fb5"), strict=True))}


class Cost(NamedTuple):
    """Milliseconds and megabytes."""

    time: float
    memory: float


def milliseconds(step: Callable[[], object], rounds: int) -> float:
    """Processor time, after one round to warm up."""
    times = []
    for _ in range(rounds + 1):
        before = time.process_time()
        step()
        times.append(time.process_time() - before)
    return statistics.median(times[1:]) * 1e3


def measured(step: Callable[[], object]) -> Cost:
    """Processor time of a step, and how much more memory the process has at most during it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    held, before = _status("VmRSS"), time.process_time()
    step()
    return Cost((time.process_time() - before) * 1e3, (_status("VmHWM") - held) / 1e3)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def attention(options: dict[str, object]) -> CrossAttention:
    config = DecoderConfig(hidden_size=WIDTH, num_heads=HEADS, memory_attention={"it": options})
    config._attn_implementation = "sdpa"
    return CrossAttention(config, WIDTH, 0, "it")


def rounds(length: int) -> int:
    return max(5, 20_000 // length)


@torch.inference_mode()
def decoding(name: str, states: Tensor, mask: Tensor) -> Cost:
    module = attention(MEMORIES[name])
    if name.startswith("resampler"):
        states, mask = Resampler(WIDTH, latents=64, layers=2, heads=HEADS)(states, mask)
    key_value = module.kind.key_value(*module.keys_and_values(states), mask)
    key_value = tuple(part.contiguous() for part in key_value)  # as a cache holds it
    query = module.queries(torch.randn(IMAGES, CAPTIONS, WIDTH))
    spent = milliseconds(lambda: module.kind.attend(query, key_value, mask, module.dense), rounds(states.shape[1]))
    return Cost(spent, sum(part.numel() * part.element_size() for part in key_value) / 1e6)


@torch.inference_mode()
def decoding_by_sdpa(length: int) -> Cost:
    keys, values = (torch.randn(IMAGES, HEADS, length, WIDTH // HEADS) for _ in range(2))
    query = torch.randn(IMAGES, HEADS, CAPTIONS, WIDTH // HEADS)
    spent = milliseconds(lambda: F.scaled_dot_product_attention(query, keys, values), rounds(length))
    return Cost(spent, 2 * keys.numel() * keys.element_size() / 1e6)


class BySDPA(nn.Module):
    """The same projections around PyTorch's SDPA, without a mask."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor, states: Tensor) -> Tensor:
        """x (B·G, T, D), states (B, S, D) → (B·G, T, D)."""
        query, keys, values = (
            each.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for each in (self.query(x.reshape(IMAGES, -1, WIDTH)), self.key(states), self.value(states))
        )
        attended = F.scaled_dot_product_attention(query, keys, values).transpose(1, 2).flatten(2)
        return self.output(attended).view_as(x)


def training(name: str, states: Tensor, mask: Tensor) -> Cost:
    x = torch.randn(IMAGES * CAPTIONS, TOKENS, WIDTH)
    if name == SDPA:
        by_sdpa = BySDPA()
        forward = lambda: by_sdpa(x, states)  # noqa: E731
    else:
        module = attention(MEMORIES[name])
        read = Resampler(WIDTH, latents=64, layers=2, heads=HEADS) if name.startswith("resampler") else None
        forward = lambda: module(x, *(read(states, mask) if read else (states, mask)), None)  # noqa: E731

    def step() -> None:
        states.grad = None
        forward().square().mean().backward()

    if states.shape[1] < 1000:
        step()
    found = [measured(step) for _ in range(1 if states.shape[1] > 1000 else 5)]
    return Cost(statistics.median(cost.time for cost in found), max(cost.memory for cost in found))


def costs(length: int) -> dict[str, tuple[Cost, Cost]]:
    """Name → cost of a decoding step and of a training step."""
    states, mask = torch.randn(IMAGES, length, WIDTH), torch.ones(IMAGES, length, dtype=torch.bool)
    found = {SDPA: (decoding_by_sdpa(length), training(SDPA, states.requires_grad_(), mask))}
    for name in MEMORIES:
        found[name] = decoding(name, states.detach(), mask), training(name, states, mask)
    return found


def table(title: str, found: dict[int, dict[str, tuple[Cost, Cost]]], step: int) -> None:
    print(f"\n| {title}: ms (MB) | " + " | ".join(f"S = {length:,}" for length in found) + " |")
    print("|---" * (1 + len(found)) + "|")
    for name in (SDPA, *MEMORIES):
        cells = [f"{own[name][step].time:,.3g} ({own[name][step].memory:,.3g})" for own in found.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")


def plot(found: dict[int, dict[str, tuple[Cost, Cost]]], path: Path) -> None:
    figure = Figure(figsize=(9, 7), layout="constrained", facecolor="white")
    axes = figure.subplots(2, 2, sharex=True)
    for row, what in enumerate(("decoding step", "training step")):
        for column, (unit, title) in enumerate((("ms", "time"), ("MB", "memory"))):
            panel = axes[row][column]
            for name, colour in COLOURS.items():
                panel.plot(
                    list(found), [own[name][row][column] for own in found.values()], "o-", color=colour, label=name
                )
            panel.set(xscale="log", yscale="log", ylabel=unit, title=f"{what}: {title}")
            panel.set_xticks(LENGTHS, [f"{length:,}" for length in LENGTHS], minor=False)
            panel.minorticks_off()
            panel.grid(alpha=0.25)
    for panel in axes[1]:
        panel.set_xlabel("memory tokens S")
    axes[0][0].legend(frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    found = {length: costs(length) for length in LENGTHS}
    for step, title in enumerate(("decoding step", "training step")):
        table(title, found, step)
    longest = found[LENGTHS[-1]]
    print(f"\nDecoding steps at S = {LENGTHS[-1]:,}, times faster than {SDPA}:")
    for name in MEMORIES:
        print(f"- {name}: {longest[SDPA][0].time / longest[name][0].time:,.1f}")
    if len(sys.argv) > 1:
        plot(found, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
