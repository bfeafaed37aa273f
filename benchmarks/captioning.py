"""A folder of JPEGs captioned by what `captioner caption` runs, beside the loop that people write, on the same weights.

    python benchmarks/captioning.py [IMAGES]

Photos of 1 to 12 megapixels, some distinct ones copied to as many files as asked for. *loop*: open eight images, the
peer's image processor, `generate`, in one process; *command*: workers read, the search takes eight at a time;
*compute*: the same search on images that are there already, in the size that the encoder takes. Peer and captioner are
the small ones of `speed.py`. Each side is a process of its own, with as many threads for computing as `--threads`;
loading and the first batch are not counted. On a GPU all sides use it.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from speed import encoder_decoder
from transformers import GPT2Tokenizer, VisionEncoderDecoderModel, ViTImageProcessor

from captioner import load
from captioner.captioning import Captioning
from captioner.inputs import Item, find_inputs
from captioner.settings import GenerationSettings

TOKENS, BATCH, DISTINCT = 20, 8, 24
LARGEST, SMALLEST = (4000, 3000), (1155, 866)  # 12 and 1 megapixels
SIDES = ("loop", "command", "compute")


def write_photos(folder: Path, count: int) -> None:
    """Noise on large smooth shapes, so that files are as large as those of cameras: about 0.3 bytes a pixel."""
    draw = np.random.default_rng(0)
    encoded = []
    for i in range(min(DISTINCT, count)):
        size = tuple(round(a + (b - a) * i / (DISTINCT - 1)) for a, b in zip(SMALLEST, LARGEST, strict=True))
        smooth = Image.fromarray(draw.integers(0, 255, (9, 12, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
        grain = Image.fromarray(draw.integers(0, 255, (size[1] // 3, size[0] // 3, 3), np.uint8)).resize(size)
        file = folder / "photo.jpg"
        Image.blend(smooth, grain, 0.15).save(file, quality=90)
        encoded.append(file.read_bytes())
        file.unlink()
    for i in range(count):
        (folder / f"{i:05}.jpg").write_bytes(encoded[i % len(encoded)])


def loop(folder: Path, files: Sequence[str], options: argparse.Namespace) -> Iterator[list[str]]:
    """Captions of the peer, batch by batch."""
    model = VisionEncoderDecoderModel.from_pretrained(folder, attn_implementation="sdpa").eval().to(device())
    images, tokenizer = ViTImageProcessor.from_pretrained(folder), GPT2Tokenizer.from_pretrained(folder)
    for start in range(0, len(files), BATCH):
        opened = [Image.open(file).convert("RGB") for file in files[start : start + BATCH]]
        pixels = images(opened, return_tensors="pt").pixel_values.to(model.device)
        with torch.inference_mode():
            ids = model.generate(pixels, num_beams=options.beams, max_new_tokens=TOKENS, do_sample=False)
        yield tokenizer.batch_decode(ids, skip_special_tokens=True)


def command(folder: Path, files: Sequence[str], options: argparse.Namespace) -> Iterator[Any]:
    """Captions of ours as they come, then the seconds of waiting for images."""
    job = _job(folder, options, options.workers)
    for _, record in job.run(find_inputs([str(Path(files[0]).parent)])):
        yield [record["caption"]]
    yield job.waited


def compute(folder: Path, files: Sequence[str], options: argparse.Namespace) -> Iterator[list[str]]:
    """The same without reading."""
    job = _job(folder, options, 0)
    ready = [Image.open(file).convert("RGB").resize((224, 224)) for file in files[:DISTINCT]]
    items = [Item(str(i), ready[i % len(ready)], None) for i in range(len(files))]
    yield from ([record["caption"]] for _, record in job.run(items))


def _job(folder: Path, options: argparse.Namespace, workers: int) -> Captioning:
    model, processor = load(str(folder))
    generation = GenerationSettings(num_beams=options.beams, max_new_tokens=TOKENS)
    return Captioning(model.to(device()), processor, generation, batch_size=BATCH, workers=workers)


def device() -> Any:
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"


def side(name: str, folder: Path, options: argparse.Namespace) -> None:
    """Run one of `SIDES` and print what it took as JSON."""
    torch.set_num_threads(options.threads)
    files = sorted(map(str, (folder / "photos").iterdir()))
    run: Callable[..., Iterator[Any]] = {"loop": loop, "command": command, "compute": compute}[name]
    captions: list[str] = []
    waited, began, first = 0.0, 0.0, 0
    for found in run(folder / "model", files, options):
        if isinstance(found, float):
            waited = found
            continue
        captions += found
        if not began and len(captions) >= BATCH:
            began, first = time.perf_counter(), len(captions)
    seconds = time.perf_counter() - began
    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    rate = (len(captions) - first) / seconds
    print(json.dumps({"rate": rate, "waited": waited / seconds, "own": own, "child": child, "captions": captions}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="?", type=int, default=2000)
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of the process that computes")
    parser.add_argument("--workers", type=int, default=1, help="processes that read for the command")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side(options.side, options.folder, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "photos").mkdir()
        write_photos(Path(folder) / "photos", options.images)
        model, images, _ = encoder_decoder("small", 224)
        words = ["<|endoftext|>", *(f"w{i}" for i in range(1, model.config.decoder.vocab_size))]
        tokenizer = GPT2Tokenizer({word: i for i, word in enumerate(words)}, merges=[])
        for part in (model, images, tokenizer):
            part.save_pretrained(Path(folder) / "model")
        found = {name: run(name, folder) for name in SIDES}
    same = sum(a == b for a, b in zip(found["loop"]["captions"], found["command"]["captions"], strict=True))
    share = found["compute"]["rate"] / found["command"]["rate"]
    print(f"\ncommand over loop {found['command']['rate'] / found['loop']['rate']:.2f}; over compute alone {share:.2f}")
    print(f"{same} of {options.images} captions are the same; device: {device()}")


def run(name: str, folder: str) -> dict[str, Any]:
    """One side in a process of its own, with its line of the table."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", name, "--folder", folder]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    memory = f"{found['own'] / 1e6:.2f} GB"
    if name == "command":
        memory += f", the largest worker {found['child'] / 1e6:.2f} GB"
    print(
        f"{name}: {found['rate']:.2f} images/s, {found['waited']:.0%} of the time waiting for images, {memory}",
        flush=True,
    )
    return found


if __name__ == "__main__":
    main()
