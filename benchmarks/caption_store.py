"""What a caption store of a million captions costs: building, disk, memory and time of a search, made-up features.

    python benchmarks/caption_store.py --images 200000 --captions 5 --width 768
    python benchmarks/caption_store.py --images 1000000 --captions 1 --width 512

Features lie around 20,000 centres, so that every image has some that are like it, as photos have. Building and
searching are processes of their own, since the memory of a process never shrinks.
"""

import argparse
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from captioner.retrieval import CaptionStore, write_store
from captioner.retrieval.retrieval import neighbours

BATCH, QUERIES, WANTED = 1000, 512, 4
CENTRES, SPREAD = 20_000, 0.7
TEXT = "a man in a {} shirt rides a {} bicycle past a {} house"  # about as long as a caption of a photo


def features(images: int, width: int) -> Iterator[np.ndarray]:
    """Features (BATCH, width) of images, one batch after the other, always the same."""
    centres = np.random.default_rng(0).standard_normal((CENTRES, width), dtype=np.float32)
    for start in range(0, images, BATCH):
        draw = np.random.default_rng([1, start])
        count = min(BATCH, images - start)
        noise = draw.standard_normal((count, width), dtype=np.float32)
        yield centres[draw.integers(CENTRES, size=count)] + SPREAD * noise


def batches(images: int, captions: int, width: int) -> Iterator[tuple]:
    for number, batch in enumerate(features(images, width)):
        places = range(number * BATCH, number * BATCH + len(batch))
        yield (
            batch,
            [f"{p:012}.jpg" for p in places],
            [[TEXT.format(p, i, p % 7) for i in range(captions)] for p in places],
        )


def gibibytes() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def report(what: str, began: float) -> None:
    print(f"{what}: {time.perf_counter() - began:.1f} s, at most {gibibytes():.2f} GiB in memory", flush=True)


def build(directory: Path, images: int, captions: int, width: int) -> None:
    began = time.perf_counter()
    write_store(directory, batches(images, captions, width), lambda fresh: {})
    report("building", began)


def search(directory: Path, images: int, width: int) -> None:
    store, began = CaptionStore(directory), time.perf_counter()
    queries = next(features(images, width))[:QUERIES]
    ids = [f"{p:012}.jpg" for p in range(len(queries))]
    found = []
    for start in range(0, len(queries), 32):
        part = slice(start, start + 32)
        found += neighbours(store, queries[part], ids[part], WANTED, 0.99)
    texts = [store.captions_of(image)[0] for own in found for image in own]
    report(f"{len(texts)} captions for {len(queries)} images, 32 at a time", began)
    print(f"of the {WANTED} nearest of all, found: {recall(queries, found, images, width):.3f}", flush=True)


def recall(queries: np.ndarray, found: list[list[int]], images: int, width: int) -> float:
    """Share of the true nearest images, themselves left out, that were found."""
    best = np.full((len(queries), WANTED + 1), -1.0), np.zeros((len(queries), WANTED + 1), int)
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    for number, batch in enumerate(features(images, width)):
        cosines = queries @ (batch / np.linalg.norm(batch, axis=1, keepdims=True)).T
        places = np.broadcast_to(np.arange(len(batch)) + number * BATCH, cosines.shape)
        joined = np.hstack([best[0], cosines]), np.hstack([best[1], places])
        order = np.argsort(-joined[0], axis=1)[:, : WANTED + 1]
        best = tuple(np.take_along_axis(values, order, 1) for values in joined)
    return float(np.mean([len(set(own) & set(true[1:])) / WANTED for own, true in zip(found, best[1], strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, number in (("images", 200_000), ("captions", 5), ("width", 768)):
        parser.add_argument(f"--{name}", type=int, default=number)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        for work, arguments in (
            (build, (options.images, options.captions, options.width)),
            (search, (options.images, options.width)),
        ):
            process = multiprocessing.get_context("spawn").Process(target=work, args=(folder / "store", *arguments))
            process.start()
            process.join()
            if process.exitcode:
                sys.exit(process.exitcode)
        sizes = {path.name: path.stat().st_size for path in (folder / "store").iterdir()}
        print(f"on disk: {sum(sizes.values()) / 2**30:.2f} GiB", {k: f"{v / 2**20:.0f} MiB" for k, v in sizes.items()})
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
