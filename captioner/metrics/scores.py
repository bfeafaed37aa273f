"""Scores of captions by the names of metrics, of a corpus and per image, and the metrics as modules for `evaluate`.

Knows nothing about how any of them counts.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .bleu import bleu
from .cider_d import cider_d
from .inputs import check
from .rouge_l import rouge_l
from .tokenizer import tokenize
from .unspaced import warn_of_unspaced
from .vqa_accuracy import vqa_accuracy

METRICS: dict[str, Callable] = {"bleu": bleu, "rouge_l": rouge_l, "cider_d": cider_d}
ANSWER_METRICS: dict[str, Callable] = {"vqa_accuracy": vqa_accuracy}  # of texts as they are written


def score(
    predictions: Sequence[str], references: Sequence[Sequence[str]], metrics: Iterable[str] = tuple(METRICS)
) -> dict[str, float]:
    """Score one caption per image against that image's references.

    Args:
        predictions: a raw caption for each image.
        references: the raw reference captions of each image, at least one each.
        metrics: which of "bleu", "rouge_l", "cider_d" and, for answers to questions, "vqa_accuracy".

    Returns:
        "bleu_1" to "bleu_4", "rouge_l" and "vqa_accuracy" as fractions, "cider_d" from 0 to 10. CIDEr-D of a single
        image is 0, with a warning.

    Raises:
        ValueError: no images, unequal lengths, an image without references, a wrong type, an unknown metric.
    """
    results = _measure(predictions, references, metrics)
    return {name: value for corpus, _ in results for name, value in corpus.items()}


def score_per_image(
    predictions: Sequence[str], references: Sequence[Sequence[str]], metrics: Iterable[str] = tuple(METRICS)
) -> dict[str, list[float]]:
    """Score each image by itself: as `score`, but a list with a value per image under every name.

    The means of "rouge_l" and "cider_d" are the corpus scores; BLEU of a corpus is no mean.
    """
    results = _measure(predictions, references, metrics)
    return {name: values for _, per_image in results for name, values in per_image.items()}


def path(metric: str) -> str:
    """The file of a metric's module for `evaluate.load`, which needs no network.

    Raises:
        ValueError: an unknown metric.
    """
    _check_name(metric)
    return str(Path(__file__).with_name(f"evaluate_{metric}.py"))


def _measure(
    predictions: Sequence[str], references: Sequence[Sequence[str]], metrics: Iterable[str]
) -> list[tuple[dict[str, float], dict[str, list[float]]]]:
    names = list(metrics)
    for name in names:
        _check_name(name)
    check(predictions, references)
    if any(name in METRICS for name in names):
        warn_of_unspaced(references)
    written = predictions, references
    tokenised = _tokenised(predictions, references) if any(name in METRICS for name in names) else written
    return [METRICS[name](*tokenised) if name in METRICS else ANSWER_METRICS[name](*written) for name in names]


def _tokenised(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    captions = [tokenize(prediction) for prediction in predictions]
    return captions, [[tokenize(reference) for reference in image] for image in references]


def _check_name(metric: str) -> None:
    known = METRICS | ANSWER_METRICS
    if metric not in known:
        raise ValueError(f"a metric must be one of {', '.join(known)}, but is {metric!r}")
