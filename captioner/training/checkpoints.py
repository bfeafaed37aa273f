"""Captioners and checkpoints on disk: written whole or not at all, rotated by count, read without executing anything.

Tensors lie in safetensors files under names, everything else in `state.json`. Knows nothing about what it keeps.
"""

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..base import one_line, remove, whole
from ..model import Captioner, CaptionerProcessor, write_card

CHECKPOINT = re.compile(r"checkpoint-(\d+)")
STATE_FILE = "state.json"
CHECKPOINT_FILES = ("*.safetensors", "*.json", "README.md", "vocab.txt", "merges.txt")  # of a captioner on disk

Tensors = dict[str, dict[str, Tensor]]


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, found or read; the message says which one is still good."""


def save_captioner(model: Captioner, processor: CaptionerProcessor, directory: Path, **card: Any) -> None:
    """Save a captioner, its processor and its card so that the directory is there whole or not at all.

    `card` is what `write_card` is to say: `data`, `metrics`, `base`.
    """
    with whole(directory) as fresh:
        model.save_pretrained(fresh)
        processor.save_pretrained(fresh)
        write_card(fresh, model.config, **card)


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints in a run's directory, oldest first."""
    return sorted((path for path in run.glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(CHECKPOINT.fullmatch(checkpoint.name)[1])


def write_checkpoint(run: Path, step: int, tensors: Tensors, facts: dict[str, Any], most: int | None) -> None:
    """Write `run/checkpoint-STEP`, then remove the oldest beyond `most` that were written here.

    Args:
        tensors: file → name → tensor.
        facts: what JSON can hold.
    """
    with whole(run / f"checkpoint-{step}") as fresh:
        for file, own in tensors.items():
            save_file(_apart(own), fresh / f"{file}.safetensors")
        (fresh / STATE_FILE).write_text(json.dumps(facts, allow_nan=False))
    if most is not None:
        for path in checkpoints(run)[:-most]:
            remove(path)


def read_checkpoint(directory: Path) -> tuple[Tensors, dict[str, Any]]:
    """The tensors and facts of a checkpoint."""
    try:
        facts = json.loads((directory / STATE_FILE).read_text())
        return {path.stem: load_file(path) for path in directory.glob("*.safetensors")}, facts
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot read {directory}: {one_line(error)}; remove it, and --resume goes on from the one before"
        ) from error


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without shared memory, which safetensors refuses: tied weights are copied."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if place in seen else tensor.contiguous()
        seen.add(place)
    return result
