"""How a search's cost grows with beams and with the memory's tokens, and what it holds: `python benchmarks/growth.py`.

Time is that of decoding on ready states, peer and ours in turns as in `speed.py`. Bytes of keys and values of the
memory are counted in our cache; the peer's hold one row per beam. Memory is the most that one base call of 8 images and
5 beams adds to a process that has captioned one image before, the default allocator throughout, each side in a process
of its own (Linux).
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from speed import ALLOCATOR, TOKENS, Row, both, images_of, our_call, peer_call, race, ratio, start, table

from captioner.cpu import LAYOUTS, prepared
from captioner.search.stepping import CaptionerStepper

IMAGES, BEAMS = 4, (1, 3, 5, 10)
LARGE, FIRST = Row("base", 224, 8, 5), Row("base", 224, 1, 1)


def times(row: Row, models: tuple, options: argparse.Namespace) -> list[list[float]]:
    """Seconds of the peer and of ours in every round."""
    pixels = images_of(row)
    peer, ours = models
    fast = prepared(ours, row.images, row.beams, options.layout)
    calls = [peer_call(peer, row, pixels), our_call(fast, row, pixels)]
    seconds, same = race(calls, options, warm=1)
    ids = "yes" if same else "**no**"
    medians = map(statistics.median, seconds)
    print(f"| {row.name} |", *(f"{median:.3f} |" for median in medians), ratio(*seconds), f"| {ids} |", flush=True)
    return seconds


def growth(name: str, first: list[list[float]], last: list[list[float]]) -> None:
    """How many times the last took as long as the first, for the peer and for us."""
    peer, ours = (statistics.median(b) / statistics.median(a) for a, b in zip(first, last, strict=True))
    print(f"\n{name}: peer {peer:.2f} times, ours {ours:.2f} times", flush=True)


def held(models: tuple, row: Row, layout: str) -> int:
    """Bytes of keys and values of the memory after the first step."""
    fast = prepared(models[1], row.images, row.beams, layout)
    memory = fast.encode(torch.randn(row.images, 3, row.pixels, row.pixels))
    stepper = CaptionerStepper(fast, memory, row.beams, 1 + row.beams * TOKENS)
    stepper.start(torch.zeros(row.images, 1, dtype=torch.long))
    layers = stepper.cache.cross_attention_cache.layers
    return sum(part.nbytes for layer in layers if layer.is_initialized for part in (layer.keys, layer.values))


def added(who: str) -> None:
    """Print the bytes that a call adds; runs in a process of its own."""
    torch.set_num_threads(2)
    peer, ours = both("base", 224)
    with torch.inference_mode():
        for row in (FIRST, LARGE):
            before = _memory("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            pixels = torch.randn(row.images, 3, row.pixels, row.pixels)
            if who == "peer":
                peer_call(peer, row, pixels)()
            else:
                our_call(prepared(ours, row.images, row.beams, who), row, pixels)()
    print(_memory("VmHWM") - before)


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=["base", "small"], default="base")
    parser.add_argument("--layout", choices=LAYOUTS, default="auto")
    parser.add_argument("--added", help=argparse.SUPPRESS)
    if "--added" in sys.argv:
        added(sys.argv[-1])
        return
    arguments = start(parser)
    size, layout = arguments.size, arguments.layout
    with torch.inference_mode():
        table("decoding", "peer, s", f"{layout}, s", "ratio", "same ids")
        models = both(size, 224)
        by_beams = {k: times(Row(size, 224, IMAGES, k, True), models, arguments) for k in BEAMS}
        by_tokens = [by_beams[5], times(Row(size, 384, IMAGES, 5, True), both(size, 384), arguments)]
        growth(f"{BEAMS[0]} to {BEAMS[-1]} beams", by_beams[BEAMS[0]], by_beams[BEAMS[-1]])
        growth("197 to 577 tokens of memory", *by_tokens)
        large = Row(size, 224, LARGE.images, LARGE.beams)
        by_layout = {name: held(models, large, name) for name in LAYOUTS}
    config = models[1].config.decoder
    theirs = large.images * large.beams * 197 * 2 * config.hidden_size * config.num_layers * 4
    print(f"\n{large.name}: keys and values of the memory: peer {_megabytes(theirs)} (from the shapes)")
    print(*(f"{name} {_megabytes(count)}" for name, count in by_layout.items()), sep=", ", flush=True)
    del models
    print("\nmemory that a base call, 8 images, 5 beams, adds to the process:")
    environment = {name: value for name, value in os.environ.items() if name not in ALLOCATOR}
    for who in ("peer", *LAYOUTS):
        command = [sys.executable, __file__, "--added", who]
        run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        print(f"{who} {_megabytes(int(run.stdout.split()[-1]))}", flush=True)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


if __name__ == "__main__":
    main()
