"""ROUGE-L over a corpus and per image, on tokenised captions.

Lin 2004: F-measure of the longest common subsequence, here with beta 1.2 and the best precision and the best
recall taken separately over the references, as the COCO caption evaluation computes it. Knows nothing about
raw captions.
"""

import math
from collections.abc import Sequence

BETA = 1.2


def rouge_l(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Corpus score and scores per image, as fractions, keyed "rouge_l"; captions come from `tokenize`.

    Words are parted at single spaces, so an empty caption is one empty word and equals another empty caption.
    """
    scores = [_score(prediction, captions) for prediction, captions in zip(predictions, references, strict=True)]
    return {"rouge_l": math.fsum(scores) / len(scores)}, {"rouge_l": scores}


def _score(prediction: str, references: Sequence[str]) -> float:
    words = prediction.split(" ")
    others = [reference.split(" ") for reference in references]
    common = [common_subsequence(words, other) for other in others]
    precision = max(common) / len(words)
    recall = max(count / len(other) for count, other in zip(common, others, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence of two word lists.

    Hyyrö 2004: a whole row of the table is one integer, and a bit of it turns 0 where the length grows.
    """
    places: dict[str, int] = {}
    for position, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << position
    row = full = (1 << len(first)) - 1
    for word in second:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & full
    return len(first) - row.bit_count()
