"""Counts of word n-grams, the common ground of BLEU and CIDEr-D. Knows nothing about captions or references."""

from collections.abc import Sequence

LONGEST = 4

Ngram = tuple[str, ...]


def count_ngrams(words: Sequence[str], n: int) -> dict[Ngram, int]:
    """How often each run of `n` words occurs; empty where there are fewer than `n` words."""
    counts: dict[Ngram, int] = {}
    for ngram in zip(*(words[start:] for start in range(n)), strict=False):
        counts[ngram] = counts.get(ngram, 0) + 1
    return counts
