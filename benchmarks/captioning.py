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
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from speed import encoder_decoder
from transformers import GPT2Tokenizer, VisionEncoderDecoderModel, ViTImageProcessor

from captioner import load
from captioner.base import GenerationSettings
from captioner.bulk import Captioning, CaptioningOptions, find_inputs
from captioner.bulk.inputs import Item

TOKENS, BATCH, DISTINCT = 20, 8, 24
LARGEST, SMALLEST = (4000, 3000), (1155, 866)  # 12 and 1 megapixels
SIDES = ("loop", "command", "compute")


def write_photos(folder: Path, count: int) -> None:
    """Noise on large smooth shapes, so that files are large: about 0.23 bytes a pixel."""
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


def by_loop(folder: Path, files: Sequence[str], beams: int) -> Iterator[str]:
    """Captions of the peer."""
    model = VisionEncoderDecoderModel.from_pretrained(folder, attn_implementation="sdpa").eval().to(device())
    images, tokenizer = ViTImageProcessor.from_pretrained(folder), GPT2Tokenizer.from_pretrained(folder)
    for start in range(0, len(files), BATCH):
        opened = [Image.open(file).convert("RGB") for file in files[start : start + BATCH]]
        pixels = images(opened, return_tensors="pt").pixel_values.to(model.device)
        with torch.inference_mode():
            ids = model.generate(pixels, num_beams=beams, max_new_tokens=TOKENS, do_sample=False)
        yield from tokenizer.batch_decode(ids, skip_special_tokens=True)


def ready(files: Sequence[str]) -> list[Item]:
    """Images that are there already, as many as files."""
    images = [Image.open(file).convert("RGB").resize((224, 224)) for file in files[:DISTINCT]]
    return [Item(str(i), images[i % len(images)], None) for i in range(len(files))]


def captioning(folder: Path, beams: int, workers: int) -> Captioning:
    """What `captioner caption` runs."""
    model, processor = load(str(folder))
    generation = GenerationSettings(num_beams=beams, max_new_tokens=TOKENS)
    options = CaptioningOptions(generation, batch_size=BATCH, workers=workers)
    return Captioning(model.to(device()), processor, options)


def device() -> Any:
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"


def side(name: str, folder: Path, options: argparse.Namespace) -> None:
    """Run one of `SIDES` and print what it took as JSON."""
    torch.set_num_threads(options.threads)
    photos, model = folder / "photos", folder / "model"
    files = sorted(map(str, photos.iterdir()))
    if name == "loop":
        job, said = None, by_loop(model, files, options.beams)
    else:
        job = captioning(model, options.beams, options.workers if name == "command" else 0)
        items = find_inputs([str(photos)]) if name == "command" else ready(files)
        said = (record["caption"] for _, record in job.run(items))
    captions = list(islice(said, BATCH))
    began = time.perf_counter()
    captions += said
    seconds = time.perf_counter() - began
    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    rate, waited = (len(captions) - BATCH) / seconds, job.waited / seconds if job else 0.0
    print(json.dumps({"rate": rate, "waited": waited, "own": own, "child": child, "captions": captions}))


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
