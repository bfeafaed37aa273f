"""All six conditioning modes on the same scenes, steps and seeds: `python benchmarks/conditioning.py FOLDER [SEED …]`.

Trains what is not in FOLDER yet (settings of the demo's live training, 600 steps, level 1), then prints the table of
conditioning.md from all that is there: exact match on 500 unseen scenes, the curve, and the parameters counted.
"""

import json
import os
import statistics
import sys
from pathlib import Path

import torch

from captioner import load
from captioner.base import GenerationSettings, Settings
from captioner.evaluation import EvaluationOptions, evaluate
from captioner.model import MODES
from captioner.pages import live_settings
from captioner.scenes import Scenes
from captioner.training import train

FOLDER = Path(sys.argv[1])
SEEDS = [int(seed) for seed in sys.argv[2:]] or [0, 1, 2]
STEPS, EVERY = 600, 100


def run(conditioning: str, fusion: str | None, seed: int) -> None:
    """One training, unless its result is there already; the test split is captioned by its last weights."""
    directory = FOLDER / f"{fusion or conditioning}-{seed}"
    if (directory / "result.json").exists():
        return
    settings = live_settings(directory, STEPS, eval_steps=EVERY, seed=seed, dataloader_num_workers=0)
    model = settings.model.model_dump() | {"conditioning": conditioning, "fusion": fusion}
    train(Settings.model_validate(settings.model_dump() | {"model": model}))
    captioner, processor = load(directory / "last")
    greedy = GenerationSettings(num_beams=1, max_new_tokens=18)
    scores = evaluate(captioner, processor, Scenes("test", [1], 500), greedy, EvaluationOptions(batch_size=100)).scores
    result = {
        "exact": scores["exact_match"],
        "cross": sum(p.numel() for n, p in captioner.named_parameters() if ".cross_attention." in n),
        "all": sum(p.numel() for p in captioner.parameters()),
        "curve": curve(directory),
    }
    (directory / "result.json").write_text(json.dumps(result))


def curve(directory: Path) -> list[float]:
    """Exact match on 200 validation scenes, every `EVERY` steps."""
    lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [line["exact_match"] for line in lines if "exact_match" in line]


def row(mode: str) -> str:
    results = [json.loads(path.read_text()) for path in sorted(FOLDER.glob(f"{mode}-*/result.json"))]
    exact = [result["exact"] for result in results]
    curves = " ".join(f"{statistics.mean(values):.0%}" for values in zip(*(r["curve"] for r in results), strict=True))
    spread, sizes = f"{min(exact):.1%} to {max(exact):.1%}", f"{results[0]['cross']:,} | {results[0]['all']:,}"
    return f"| {mode} | {statistics.mean(exact):.1%} | {spread} | {len(results)} | {curves} | {sizes} |"


torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
for seed in SEEDS:
    for conditioning, fusion in MODES:
        run(conditioning, fusion, seed)
print("| mode | mean | spread | seeds | validation, every 100 steps | parameters of cross-attention | all |")
print("|---|---|---|---|---|---|---|")
for conditioning, fusion in MODES:
    print(row(fusion or conditioning))
