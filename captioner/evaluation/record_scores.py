"""What captioned records are worth: by the metrics of their task, and by exact match.

Knows nothing about captioners and images.
"""

from typing import Any

from .. import metrics
from ..base import TrainingSettings
from .borrowed_metrics import CLIP_SCORES

TASK_METRICS = {  # task → the metrics of its captions
    "captions": tuple(metrics.METRICS),
    "translation": tuple(metrics.METRICS),
    "sounds": tuple(metrics.METRICS),
    "questions": tuple(metrics.ANSWER_METRICS),
}


def score_records(records: list[dict[str, Any]], task: str = "captions") -> dict[str, float]:
    """Score records that hold `caption` and `captions` with the metrics of a task, and by exact match."""
    predictions = [record["caption"] for record in records]
    references = [record["captions"] for record in records]
    return {
        **metrics.score(predictions, references, TASK_METRICS[task]),
        "exact_match": exact_match(predictions, references),
    }


def score_names(task: str, options: TrainingSettings) -> list[str]:
    """The names of the scores that captions of a task get, with those of the borrowed metrics that the options name."""
    pair = [{"caption": word, "captions": [word]} for word in ("dog", "cat")]
    clip = [] if options.clip_model is None else CLIP_SCORES
    return [*score_records(pair, task), *options.java_metrics, *clip]


def exact_match(predictions: list[str], references: list[list[str]]) -> float:
    """The share of captions that equal one of their references, but for case and spaces."""
    hits = [_plain(caption) in map(_plain, own) for caption, own in zip(predictions, references, strict=True)]
    return sum(hits) / len(hits)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
