"""What long memories cost in quality: `python benchmarks/memory_quality.py FOLDER [NAME …] [--seeds 0 1]`.

Trains every memory of `MEMORIES` (or those named) that is not in FOLDER yet, from scratch on scenes of level 1 with the
settings of the demo's live training, then prints a table of all that is there: exact match on 1,000
unseen scenes. The image has 64 tokens and the context up to 32, so every memory here leaves most of it out.
"""

import argparse
import json
import os
import statistics
from pathlib import Path

import torch

from captioner import load
from captioner.base import GenerationSettings, Settings
from captioner.evaluation import EvaluationOptions, evaluate
from captioner.pages import live_settings
from captioner.scenes import Scenes
from captioner.training import train

STEPS, EVERY = 1500, 300
BLOCKS = {"image": {"block_size": 4, "blocks": 4}, "context": {"block_size": 4, "blocks": 2}}
MEMORIES = {
    "softmax": {},
    "pool": {"image": {"pool": 2}},
    "resampler": {"image": {"resampler": {"latents": 32, "layers": 2, "heads": 4}}},
    "topk": {name: {"attention": "topk", **options} for name, options in BLOCKS.items()},
    "linear": {name: {"attention": "linear"} for name in BLOCKS},
}


def run(folder: Path, name: str, seed: int) -> None:
    """One training, unless its result is there already; the test split is captioned by its last weights."""
    directory = folder / f"{name}-{seed}"
    if (directory / "result.json").exists():
        return
    settings = live_settings(directory, STEPS, eval_steps=EVERY, seed=seed, dataloader_num_workers=0)
    model = settings.model.model_dump() | {"memory": MEMORIES[name]}
    train(Settings.model_validate(settings.model_dump() | {"model": model}))
    captioner, processor = load(directory / "last")
    greedy = GenerationSettings(num_beams=1, max_new_tokens=18)
    scores = evaluate(captioner, processor, Scenes("test", [1], 1000), greedy, EvaluationOptions(batch_size=100)).scores
    result = {"exact": scores["exact_match"], "curve": curve(directory)}
    (directory / "result.json").write_text(json.dumps(result))


def curve(directory: Path) -> list[float]:
    """Exact match on 200 validation scenes, every `EVERY` steps."""
    lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [line["exact_match"] for line in lines if "exact_match" in line]


def row(folder: Path, name: str) -> str:
    results = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{name}-*/result.json"))]
    if not results:
        return f"| {name} | – | – | – |"
    exact = ", ".join(f"{result['exact']:.1%}" for result in results)
    mean = statistics.mean(result["exact"] for result in results)
    curves = " ".join(f"{statistics.mean(values):.0%}" for values in zip(*(r["curve"] for r in results), strict=True))
    return f"| {name} | {mean:.1%} | {exact} | {curves} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MEMORIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    for seed in given.seeds:
        for name in given.names or MEMORIES:
            run(given.folder, name, seed)
    print(f"| memory | exact match | by seed | validation, every {EVERY} steps |")
    print("|---|---|---|---|")
    for name in MEMORIES:
        print(row(given.folder, name))


if __name__ == "__main__":
    main()
