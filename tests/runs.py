"""Tiny runs that several test files train, and what they leave behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

from captioner.base import load_settings

ROOT = Path(__file__).parent.parent
TINY = [
    "data.levels=[1,2,3]",  # all with a picture
    "model.image_encoder={name: vit_tiny_patch16_224, image_size: 64, embed_dim: 32, depth: 1, num_heads: 2}",
    "model.context_encoder={model_type: bert, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, "
    "intermediate_size: 32}",
    "model.decoder={hidden_size: 32, num_layers: 1, num_heads: 2, intermediate_size: 32, max_positions: 24}",
    "training.max_steps=4",
    "training.logging_steps=1",
    "training.eval_steps=2",
    "training.save_steps=2",
    "training.max_eval_samples=6",
    "training.dataloader_num_workers=0",
    "training.warmup_steps=0",
    "data.scenes=64",
]


def settings(directory, *overrides):
    """A run of four steps on generated scenes."""
    return load_settings(ROOT / "configs/scenes.yaml", [*TINY, f"training.output_dir={directory}", *overrides])


def lines(directory):
    """The lines of a run's log."""
    return [json.loads(line) for line in (Path(directory) / "metrics.jsonl").read_text().splitlines()]


def losses(directory):
    """The losses in a run's log."""
    return [line["loss"] for line in lines(directory) if "loss" in line]


def launch(*arguments):
    """Run a script on two processes of this CPU; what they print."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *arguments]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-10_000:]
    return done.stdout
