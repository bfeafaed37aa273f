"""What the reward costs of a self-critical step: `python benchmarks/reward_cost.py CONFIG MODEL [key=value …]`.

Times the steps of `captioner train` with `training.objective=self_critical` and, inside them, the calls of the reward.
"""

import os
import sys
import tempfile
import time

import torch

from captioner.base import load_settings
from captioner.training import train
from captioner.training.self_critical import Reward

STEPS = 20
config, model, *changes = sys.argv[1:]
spent: list[float] = []
reward = Reward.__call__


def timed(*arguments) -> list[float]:
    began = time.perf_counter()
    values = reward(*arguments)
    spent.append(time.perf_counter() - began)
    return values


torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
Reward.__call__ = timed
with tempfile.TemporaryDirectory() as folder:
    settings = load_settings(
        config,
        [
            *changes,
            f"model.init_from={model}",
            f"training.output_dir={folder}",
            "training.objective=self_critical",
            f"training.max_steps={STEPS}",
            f"training.eval_steps={STEPS + 1}",
            "training.warmup_steps=1",
            "training.max_eval_samples=1",
            "training.dataloader_num_workers=0",
        ],
    )
    began = time.perf_counter()
    train(settings)
    each = (time.perf_counter() - began) / STEPS
cost = sum(spent[1:]) / len(spent[1:])  # the first call tokenizes what the cache then holds
print(f"a step {each:.3f} s, its reward {cost:.4f} s (the first {spent[0]:.4f} s): {cost / each:.1%}")
