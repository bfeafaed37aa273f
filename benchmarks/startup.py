"""`captioner caption` on one image beside importing torch, timm and transformers: `python benchmarks/startup.py`.

Both start in fresh processes, in turns; the captioner is a shipped one, from a local folder. Prints seconds and ratios.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

IMPORTS = [sys.executable, "-c", "import torch, timm, transformers"]
SHIPPED = Path(__file__).parent.parent / "captioner" / "shipped" / "scenes-separate"


def seconds(command: list[str]) -> float:
    """Wall clock of a process."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default=str(SHIPPED), help="a local checkpoint")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder, "photo.jpg")
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)).save(photo)
        caption = [sys.executable, "-m", "captioner", "caption", str(photo), "--model", arguments.model]
        rounds = [(seconds(IMPORTS), seconds(caption)) for _ in range(arguments.rounds + 1)][1:]
    imports, captions = map(statistics.median, zip(*rounds, strict=True))
    ratios = [b / a for a, b in rounds]
    print(f"medians of {arguments.rounds} rounds: imports {imports:.2f} s, captioner caption {captions:.2f} s")
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")


if __name__ == "__main__":
    main()
