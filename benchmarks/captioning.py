"""A folder captioned by the command beside the loop that people write: `python benchmarks/captioning.py [IMAGES]`.

Both read photos of 12 megapixels from disk and search with the same captioner and beams. The loop opens an image,
prepares it and calls `generate`, one after the other; the command reads in workers and searches in batches. Loading is
not counted. Prints images per second and whether the captions are the same.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from captioner import load
from captioner.captioning import Captioning
from captioner.inputs import find_inputs
from captioner.scenes import Scenes
from captioner.settings import GenerationSettings

BEAMS, TOKENS, SIDE = 3, 30, (4000, 3000)


def write_photos(folder, count):
    """Scenes, enlarged to the size of photos."""
    scenes = Scenes("test", [2], count)
    for i in range(count):
        Image.fromarray(scenes[i]["image"]).resize(SIDE).save(folder / f"{i:04}.jpg", quality=90)


def loop(model, processor, files):
    """Captions in seconds, one image at a time."""
    captions, began = [], time.perf_counter()
    for file in files:
        batch = processor(images=Image.open(file)).to(model.device)
        ids = model.generate(**batch, num_beams=BEAMS, max_new_tokens=TOKENS)
        captions += processor.batch_decode(ids)
    return captions, time.perf_counter() - began


def command(model, processor, inputs):
    """The same by what `captioner caption` runs; and the share of time spent waiting for images."""
    generation = GenerationSettings(num_beams=BEAMS, max_new_tokens=TOKENS)
    job = Captioning(model, processor, generation, batch_size=16, workers=torch.get_num_threads())
    began = time.perf_counter()
    captions = [record["caption"] for _, record in job.run(inputs)]
    seconds = time.perf_counter() - began
    return captions, seconds, job.waited / seconds


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    model, processor = load("scenes-separate")
    model.to(torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder), count)
        inputs = find_inputs([folder])
        loop(model, processor, inputs.names[:2])
        one, seconds = loop(model, processor, inputs.names)
        many, faster, waited = command(model, processor, inputs)
    print(
        f"loop: {count / seconds:.1f} images/s; command: {count / faster:.1f} images/s, {waited:.0%} waiting for images"
    )
    print(f"same captions: {sum(a == b for a, b in zip(one, many, strict=True))} of {count}; on {model.device}")


if __name__ == "__main__":
    main()
