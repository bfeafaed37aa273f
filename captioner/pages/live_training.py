"""The training that `captioner demo` lets its user watch: fitted to two minutes here, run, and told in curves.

Offline and on the CPU. Knows the settings of `live.yaml`; knows nothing about the shipped captioners and the page.
"""

from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..adopt import load
from ..base import Settings, load_settings, progress, say
from ..evaluation import EvaluationOptions, evaluate
from ..scenes import Scenes
from ..training import train
from .curves import read_log, series
from .html import Curve, Training, millions, percent

LIVE = Path(__file__).parents[1] / "templates" / "live.yaml"
LIVE_SECONDS = 105  # of steps; validations and saving take it to about two minutes
REHEARSAL = 60  # steps that are timed first
FEWEST, MOST = 400, 3000  # steps
VALIDATIONS = 6
SCENES_AT_ONCE = 100  # in a batch of an evaluation


def train_live(directory: Path, scenes: int, steps: int | None) -> Training:
    """Train a fresh captioner into `directory`, then let it caption unseen scenes of the level it learnt."""
    if steps is None:
        say("2 of 3: timing the first steps of a training, so that it takes two minutes here")
        steps = steps_that_fit()
    settings = live_settings(directory, steps)
    say(f"2 of 3: training a fresh captioner on level 1 for {steps} steps; watch exact_match rise")
    train(settings)
    model, processor = load(directory / "best")
    unseen = Scenes("test", [1], scenes)
    watch = partial(progress, description="the fresh captioner on unseen scenes")
    options = EvaluationOptions(batch_size=SCENES_AT_ONCE)
    result = evaluate(model, processor, unseen, settings.generation, options, watch=watch)
    logged = read_log(directory / "metrics.jsonl")
    size = millions(model.num_parameters())
    summary = (
        f"A fresh captioner ({model.config.conditioning}, {size} million parameters, random weights) "
        f"trained on level 1 for {steps} steps, {logged[-1]['minutes']:.1f} minutes on the CPU. On {scenes} unseen "
        f"scenes of that level, {percent(result.scores['exact_match'])} of its captions equal a true one."
    )
    say(summary)
    loss, exact = series(logged, "loss"), series(logged, "exact_match")
    return Training(summary, [Curve("training loss", loss), Curve("exact match in validation", exact, share=True)])


def live_settings(directory: Path, steps: int, **changes: Any) -> Settings:
    """The settings of `live.yaml`, its schedule stretched over `steps`."""
    settings = load_settings(LIVE)
    fitted = {
        "output_dir": str(directory),
        "max_steps": steps,
        "warmup_steps": min(settings.training.warmup_steps, steps // 10),
        "logging_steps": max(1, steps // 60),
        "eval_steps": -(-steps // VALIDATIONS),
        "save_steps": steps,
    }
    training = settings.training.model_copy(update={**fitted, **changes})
    return settings.model_copy(update={"training": training})


def steps_that_fit() -> int:
    """How many steps take `LIVE_SECONDS` here, by a short silent run of the same training."""
    changes = {"logging_steps": REHEARSAL // 6, "eval_steps": REHEARSAL, "max_eval_samples": 1}
    with TemporaryDirectory() as folder, redirect_stderr(StringIO()):
        train(live_settings(Path(folder), REHEARSAL, **changes))
        first, *_, last = (line for line in read_log(Path(folder) / "metrics.jsonl") if "loss" in line)
    seconds = 60 * (last["minutes"] - first["minutes"]) / (last["step"] - first["step"])
    return int(min(max(LIVE_SECONDS / max(seconds, 1e-3), FEWEST), MOST))
