"""Which captioner a checkpoint is of: its shape, its vocabulary, its adapters. A run goes on with no other.

Knows nothing about weights.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from ..model import Captioner, CaptionerProcessor
from .checkpoints import CheckpointError

VOCABULARY = "vocabulary"
FREE = ("dropout", "drop_path", "pretrained", "transformers_version", "dtype", "_name_or_path", "architectures")


def identity(model: Captioner, processor: CaptionerProcessor, lora: dict[str, Any] | None) -> dict[str, Any]:
    """What must be the same in a run that goes on, as JSON holds it."""
    words = json.dumps(processor.tokenizer.get_vocab(), sort_keys=True)
    shape = {f"model.{key}": value for key, value in _flat(model.config.to_dict())}
    facts = {VOCABULARY: hashlib.sha256(words.encode()).hexdigest()[:16], **shape, "training.lora": lora}
    return json.loads(json.dumps(facts, default=str))


def check_identity(then: dict[str, Any], now: dict[str, Any], step: int) -> None:
    """Make sure that a checkpoint is of this captioner.

    Raises:
        CheckpointError: it is of another; the message says in what.
    """
    other = next((key for key in {**then, **now} if then.get(key) != now.get(key)), None)
    if other is None:
        return
    what = f"`{other}` is {now.get(other)!r}, but was {then.get(other)!r}"
    if other == VOCABULARY:
        what = "the vocabulary, which the texts of the training split and `data.tokenizer` give, is another than"
    raise CheckpointError(
        f"{what} when checkpoint-{step} was written; a run goes on with the captioner that it began with: bring that "
        "back, or begin another run with `model.init_from` and another `training.output_dir`"
    )


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves that shape a captioner, by their dotted names."""
    for key, value in tree.items():
        if any(part in str(key) for part in FREE):
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
