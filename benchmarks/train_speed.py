"""Training steps beside transformers, on the same weights with the same losses: `python benchmarks/train_speed.py`.

A step is forward, backward and fused AdamW over 8 images with 5 captions each. The peer's rows are captions, each with
its image; ours are images, each with its captions, as `train.py` groups them. *trained*: the image encoder learns too;
*frozen*: it does not, each side running it as its own loop does; *cached*: ours reads stored features. Captions have 20
tokens, or, *padded*, 8 to 20. No dropout. Both take turns; a ratio is the median of the rounds' ratios.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from accelerate import Accelerator
from speed import both, race, ratio, start, table
from torch import Tensor, nn

from captioner.training.gradients import Gradients
from captioner.training.objectives import CrossEntropy

IMAGES, CAPTIONS, TOKENS, SHORTEST = 8, 5, 20, 8
ROWS = [
    *((size, encoder, "full") for size in ("small", "tiny") for encoder in ("trained", "frozen", "cached")),
    ("small", "trained", "padded"),
    ("small", "cached", "padded"),
]


def batch(padded: bool) -> tuple[Tensor, Tensor]:
    """Pixels (B, 3, H, W) and labels (N, T)."""
    draw = torch.Generator().manual_seed(1)
    labels = torch.randint(3, 50_000, (IMAGES * CAPTIONS, TOKENS), generator=draw)
    if padded:
        lengths = torch.randint(SHORTEST, TOKENS + 1, (len(labels), 1), generator=draw)
        labels[torch.arange(TOKENS) >= lengths] = -100
    return torch.randn(IMAGES, 3, 224, 224, generator=draw), labels


def stepping(model: nn.Module, backward: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """One step of training → the loss before it, rounded, so that both sides can be compared."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)

    def step() -> Tensor:
        value = backward()
        optimizer.step()
        optimizer.zero_grad()
        return (value.detach() * 1e3).round()

    return step


def peer_step(peer: nn.Module, pixels: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    """An image row for every caption."""
    rows = pixels.repeat_interleave(CAPTIONS, dim=0)

    def backward() -> Tensor:
        loss = peer(pixel_values=rows, labels=labels).loss
        loss.backward()
        return loss

    return stepping(peer, backward)


def our_step(ours: nn.Module, pixels: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    """The captions of an image share its row."""
    ids = ours._shift_right(labels)
    inputs = {"pixel_values": pixels, "decoder_input_ids": ids, "labels": labels}
    gradients = Gradients(Accelerator(cpu=True), ours, CrossEntropy())
    return stepping(ours, lambda: gradients([inputs]))


def line(size: str, encoder: str, padding: str, options: argparse.Namespace) -> str:
    """One row of the table."""
    peer, ours = both(size, 224)
    pixels, labels = batch(padding == "padded")
    if encoder != "trained":
        peer.encoder.requires_grad_(False)
        ours.encoder.image.requires_grad_(False)
    seen = pixels
    if encoder == "cached":
        with torch.no_grad():
            seen = ours.encoder.image(pixels)
    (theirs, own), same = race([peer_step(peer, pixels, labels), our_step(ours, seen, labels)], options)
    speeds = [f"{len(labels) / statistics.median(each):.1f}" for each in (theirs, own)]
    cells = [f"{size}-{encoder}-{padding}", *speeds, ratio(theirs, own), "yes" if same else "**no**"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help="such as small-trained-full; default: all")
    arguments = start(parser)
    table("row", "peer, captions/s", "ours, captions/s", "ratio", "losses equal to 3 decimals")
    for row in (row for row in ROWS if "-".join(row) in arguments.rows or not arguments.rows):
        print(line(*row, arguments), flush=True)


if __name__ == "__main__":
    main()
