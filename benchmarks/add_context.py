"""What `captioner convert` keeps: `python benchmarks/add_context.py FOLDER` prints the tables of add_context.md.

On scenes of level 1, with the settings of the demo's live training: a captioner that looks first and is then given a
context, against one that had both from the start; and a concatenated captioner switched to separate/joint.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoConfig

from captioner import load
from captioner.base import GenerationSettings, Settings
from captioner.evaluation import EvaluationOptions, evaluate
from captioner.model import text_encoder_class
from captioner.pages import live_settings
from captioner.scenes import Scenes
from captioner.training import train

FOLDER = Path(sys.argv[1])
STEPS = {"both": 1200, "image": 800, "added": 800, "joint": 200}
EVERY = 50  # steps from one validation to the next
CLOSE = 0.03  # of exact match


def run(name: str, rate: float | None = None, **model: object) -> list[tuple[int, float]]:
    """Train into `FOLDER/name`; → its curve, (step, exact match on 200 validation scenes)."""
    changes = {"eval_steps": EVERY} | ({} if rate is None else {"learning_rate": rate})
    settings = live_settings(FOLDER / name, STEPS[name], **changes)
    settings = Settings.model_validate(settings.model_dump() | {"model": settings.model.model_dump() | model})
    train(settings)
    return curve(FOLDER / name)


def curve(directory: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["exact_match"]) for line in lines if "exact_match" in line]


def convert(source: str, target: str, *options: str) -> None:
    """The command, as a user types it."""
    command = [sys.executable, "-m", "captioner", "convert", str(FOLDER / source), str(FOLDER / target), *options]
    subprocess.run(command, check=True)


def unseen(name: str) -> str:
    """Exact match on 500 test scenes, among them pairs of colour and shape that no training scene has."""
    model, processor = load(FOLDER / name)
    greedy = GenerationSettings(num_beams=1, max_new_tokens=18)
    scores = evaluate(model, processor, Scenes("test", [1], 500), greedy, EvaluationOptions(batch_size=100)).scores
    return f"{scores['exact_match']:.1%}"


def new_text_encoder(processor_of: str) -> str:
    """A folder with an untrained text encoder of the demo's shape, with the captions' tokenizer."""
    folder, tokenizer = FOLDER / "text-encoder", load(FOLDER / processor_of)[1].tokenizer
    shape = live_settings(FOLDER, 1).model.context_encoder | {"vocab_size": len(tokenizer), "dropout_rate": 0.0}
    config = AutoConfig.for_model(**shape)
    torch.manual_seed(0)
    text_encoder_class(config).from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def first_step(points: list[tuple[int, float]], least: float) -> int | None:
    return next((step for step, value in points if value >= least), None)


def distance(name: str) -> float:
    """How far the modalities' key projections are apart, relative to their size, over all layers."""
    blocks = load(FOLDER / name)[0].decoder.blocks
    pairs = [[own.key.weight for own in block.cross_attention.attentions.values()] for block in blocks]
    return sum(((a - b).norm() / a.norm()).item() for a, b in pairs) / len(pairs)


def show(name: str, points: list[tuple[int, float]]) -> None:
    print(f"{name}: " + " ".join(f"{step}:{value:.3f}" for step, value in points), flush=True)


torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
both = run("both", conditioning="concatenated")
image = run("image", conditioning="concatenated", context_encoder=None)
convert("image/best", "image-and-context", "--add-context", new_text_encoder("image/best"))
added = run("added", init_from=str(FOLDER / "image-and-context"))
convert("both/best", "both-joint", "--fusion", "joint")
joint = run("joint", rate=3e-4, init_from=str(FOLDER / "both-joint"))

for name, points in {"both": both, "image": image, "added": added, "joint": joint}.items():
    show(name, points)
target = max(value for _, value in both) - CLOSE
print(f"steps to {target:.3f}: {first_step(both, target)} from the start, {first_step(added, target)} after adding")
for name in ("both/best", "both-joint", "joint/best", "image/best", "image-and-context", "added/best"):
    print(f"{name}: {unseen(name)} of 500 test scenes")
print(f"keys apart: {distance('both-joint'):.3f} after the switch, {distance('joint/best'):.3f} after training")
