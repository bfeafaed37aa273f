"""What many samples of an image cost, beside `generate` and beside all in one row: `python benchmarks/samples.py`.

Decoding alone, on a ready memory, 20 tokens and no end; seconds of one thread's processor time, the least of several
rounds in turns, since other jobs may use the machine. Words are drawn from the whole distribution on both sides.
"""

import argparse
import time
from collections.abc import Callable
from unittest.mock import patch

import torch
from speed import TOKENS, both

from captioner import load
from captioner.cpu import prepared
from captioner.model import Captioner, Memory
from captioner.search import SearchOptions, loop, search

COUNTS = (1, 10, 64, 256, 512)


def our_samples(model: Captioner, memory: Memory, count: int) -> Callable[[], object]:
    """→ the captions of `search`."""
    options = SearchOptions(do_sample=True, num_return_sequences=count, max_new_tokens=TOKENS, top_k=0, eos_token_id=())
    return lambda: search(model, memory, options)


def generated_samples(model: Captioner, memory: Memory, count: int) -> Callable[[], object]:
    """→ the captions of `generate`."""
    options = {"do_sample": True, "num_return_sequences": count, "max_new_tokens": TOKENS, "top_k": 0}
    options["min_new_tokens"] = TOKENS
    return lambda: model.generate(encoder_outputs=memory, **options)


def in_one_row(call: Callable[[], object]) -> Callable[[], object]:
    """The same with all captions of an image in one row."""

    def wide() -> object:
        with patch.object(loop, "WIDEST_ROW", max(COUNTS)):
            return call()

    return wide


def least(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    """Seconds of each call in its best round; the first round warms up."""
    seconds = [[] for _ in calls]
    for _ in range(rounds + 1):
        for call, own in zip(calls, seconds, strict=True):
            start = time.process_time()
            call()
            own.append(time.process_time() - start)
    return [min(own[1:]) for own in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=["base", "small", "scenes"], default="scenes")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load("scenes-separate")[0] if arguments.size == "scenes" else both(arguments.size, 224)[1]
    pixels = model.config.image_encoder["image_size"]
    print("| samples | generate, s | one row, s | search, s | ratio to generate |\n|---|---|---|---|---|")
    with torch.inference_mode():
        for count in COUNTS:
            fast = prepared(model, 1, count)
            memory = fast.encode(torch.randn(1, 3, pixels, pixels))
            ours = our_samples(fast, memory, count)
            calls = [generated_samples(model, memory, count), in_one_row(ours), ours]
            theirs, before, own = least(calls, arguments.rounds)
            print(f"| {count} | {theirs:.3f} | {before:.3f} | {own:.3f} | {theirs / own:.2f} |", flush=True)


if __name__ == "__main__":
    main()
