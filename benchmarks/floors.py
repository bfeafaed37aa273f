"""The least time that each row of `speed.py` can take in exact fp32 on this machine: `python benchmarks/floors.py`.

Operations over the rate of a large matrix product, bytes of weights over the rate of reading, both measured here: a
step takes the larger of the two, the encoder and the keys and values of the memory their operations. Attention itself,
normalisation and the choice of words are not counted.
"""

import argparse
import time
from collections.abc import Callable

import torch
from speed import ROWS, SIZES, TOKENS, Row, start, table
from torch.nn import functional as F

from captioner.cpu import wide_products

VOCABULARY = {"base": 50_257, "small": 50_257, "blip": 30_524}
BLIP = ((768, 12, 12), (768, 12, 12))
PATCH = 16


def best(call: Callable[[], object], clock: Callable[[], float], rounds: int) -> float:
    """Seconds of the fastest round."""
    seconds = []
    for _ in range(rounds):
        began = clock()
        call()
        seconds.append(clock() - began)
    return min(seconds)


def rates(options: argparse.Namespace) -> tuple[float, float]:
    """Operations and bytes a second."""
    clock = time.thread_time if options.cpu_time else time.perf_counter
    rows, matrix, much = torch.randn(1576, 768), torch.randn(3072, 768), torch.randn(2**26)
    with torch.inference_mode(), wide_products(rows.device):
        seconds = best(lambda: F.linear(rows, matrix), clock, 4 * options.rounds)
    operations = 2 * rows.shape[0] * matrix.numel() / seconds
    return operations, much.nbytes / best(much.sum, clock, 4 * options.rounds)


def floor(row: Row, operations: float, read: float) -> tuple[float, float]:
    """Seconds of the encoder with the keys and values of the memory, and of all steps."""
    (width, layers, _), (text, blocks, _) = SIZES.get(row.peer, BLIP)
    patches = (row.pixels // PATCH) ** 2
    tokens = patches + 1
    each = layers * (12 * width**2 * tokens + 2 * tokens**2 * width) + 3 * PATCH**2 * width * patches
    memory = 2 * blocks * tokens * width * text
    weights = blocks * 14 * text**2 + VOCABULARY[row.peer] * text
    steps = [row.images] + [row.images * row.beams] * (TOKENS - 1)
    seconds = [max(2 * rows * weights / operations, 4 * weights / read) for rows in steps]
    look = 2 * row.images * (memory if row.decoding_only else memory + each) / operations
    return look, sum(seconds)


def main() -> None:
    options = start(argparse.ArgumentParser(description=__doc__.splitlines()[0]))
    operations, read = rates(options)
    print(f"large product {operations / 1e9:.0f} GFLOP/s, reading {read / 1e9:.1f} GB/s\n")
    table("row", "encoder, keys and values, s", "steps, s", "floor, s")
    for row in ROWS:
        look, steps = floor(row, operations, read)
        print(f"| {row.name} | {look:.3f} | {steps:.3f} | {look + steps:.3f} |")


if __name__ == "__main__":
    main()
