"""BLEU-1 to BLEU-4 over a corpus and per image, on tokenised captions.

Papineni et al. 2002: clipped n-gram precision and a brevity penalty, here with the closest reference length
and without smoothing, as the COCO caption evaluation computes it. Knows nothing about raw captions.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .ngrams import LONGEST, Ngram, count_ngrams

# Keep the quotients defined where nothing was counted; their size is part of the COCO numbers.
_TINY = 1e-15
_SMALL = 1e-9

BLEU_NAMES = tuple(f"bleu_{n}" for n in range(1, LONGEST + 1))


class Counts(NamedTuple):
    """What BLEU needs to know of one caption, or the sums over many."""

    length: int
    reference_length: int
    correct: tuple[int, ...]
    guessed: tuple[int, ...]


def bleu(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Corpus scores and scores per image, as fractions, keyed by `BLEU_NAMES`; captions come from `tokenize`."""
    counts = [_count(prediction, captions) for prediction, captions in zip(predictions, references, strict=True)]
    corpus = dict(zip(BLEU_NAMES, _combine(_total(counts)), strict=True))
    per_image = dict(zip(BLEU_NAMES, map(list, zip(*map(_combine, counts), strict=True)), strict=True))
    return corpus, per_image


def _count(prediction: str, references: Sequence[str]) -> Counts:
    words = prediction.split()
    others = [reference.split() for reference in references]
    closest = min((abs(len(other) - len(words)), len(other)) for other in others)[1]
    correct = tuple(_clipped(words, others, n) for n in range(1, LONGEST + 1))
    guessed = tuple(max(0, len(words) - n + 1) for n in range(1, LONGEST + 1))
    return Counts(len(words), closest, correct, guessed)


def _clipped(words: Sequence[str], references: Sequence[Sequence[str]], n: int) -> int:
    """N-grams that a reference has too, each at most as often as in the reference with most of it."""
    most: dict[Ngram, int] = {}
    for reference in references:
        for ngram, count in count_ngrams(reference, n).items():
            most[ngram] = max(most.get(ngram, 0), count)
    return sum(min(count, most.get(ngram, 0)) for ngram, count in count_ngrams(words, n).items())


def _total(counts: Iterable[Counts]) -> Counts:
    lengths, reference_lengths, correct, guessed = zip(*counts, strict=True)
    columns = (tuple(map(sum, zip(*rows, strict=True))) for rows in (correct, guessed))
    return Counts(sum(lengths), sum(reference_lengths), *columns)


def _combine(counts: Counts) -> list[float]:
    """BLEU-n is the geometric mean of the first n precisions times the brevity penalty."""
    ratio = (counts.length + _TINY) / (counts.reference_length + _SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores = []
    product = 1.0
    for n, (correct, guessed) in enumerate(zip(counts.correct, counts.guessed, strict=True), start=1):
        product *= (correct + _TINY) / (guessed + _SMALL)
        scores.append(product ** (1 / n) * penalty)
    return scores
