"""CIDEr-D per caption, with the references prepared once: a metric and the reward of self-critical training.

Vedantam et al. 2015 (arXiv 1411.5726): mean cosine of TF-IDF vectors of 1- to 4-grams, clipped and weighted
by the difference of lengths, on the scale of 0 to 10 that the COCO caption evaluation uses. Knows nothing
about models or training.
"""

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .inputs import check_list, check_references
from .ngrams import LONGEST, Ngram, count_ngrams
from .tokenizer import tokenize

SIGMA = 6.0

Caption = str | Sequence[str]


class DocumentFrequencies(NamedTuple):
    """In how many of `images` images an n-gram occurs among the references."""

    counts: dict[Ngram, int]
    images: int


class _Image(NamedTuple):
    """The references of an image, turned round: which of them have an n-gram, and how often."""

    found: dict[Ngram, tuple[tuple[int, int], ...]]  # n-gram to (reference, count), …
    lengths: list[int]  # of each reference, in bigrams
    norms: list[list[float]]  # of each reference's vector, for n = 1, 2, 3, 4


class CiderD:
    """Scores captions against the references of their image.

    A caption is a raw string, which is tokenised, or a list of words, which is taken as it is: an end token
    can so count as a word in a reward, when predictions and references carry it.

    Args:
        references: captions per image, at least one each.
        document_frequencies: those of another corpus, usually the training set's
            (`CiderD(training_references).document_frequencies`); None counts them in `references`. One image
            alone gives no word a weight, so every score would be 0: a warning says so.

    Raises:
        ValueError: no images, an image without references, a wrong type, frequencies beyond their images.
    """

    def __init__(
        self,
        references: Sequence[Sequence[Caption]],
        document_frequencies: DocumentFrequencies | None = None,
    ):
        check_references(references)
        if len(references) == 1 and document_frequencies is None:
            warnings.warn(
                "CIDEr-D is 0 for every caption: `references` has 1 image, and words are weighted by how few "
                "of the images they occur in; pass more images or the training set's `document_frequencies`",
                stacklevel=2,
            )
        indexed = _index(references)
        self.document_frequencies = document_frequencies or _count_documents(indexed)
        _check_frequencies(self.document_frequencies)
        counts, images = self.document_frequencies
        self._unseen = math.log(images) ** 2
        weights = {count: math.log(images / count) ** 2 for count in set(counts.values())}
        self._weights = {ngram: weights[count] for ngram, count in counts.items()}
        self._images = [_Image(found, lengths, self._norms(found, len(lengths))) for found, lengths in indexed]

    def __len__(self) -> int:
        """The number of images."""
        return len(self._images)

    def score(self, predictions: Sequence[Caption], indices: Iterable[int] | None = None) -> list[float]:
        """Score each caption against the references of its image.

        Args:
            predictions: captions, several of one image if wanted.
            indices: the image of each caption; None: one caption for each image, in order.

        Returns:
            One score of 0 to 10 per caption; their mean is the CIDEr-D of a corpus.

        Raises:
            ValueError: unequal lengths, an index without an image, or a wrong type.
        """
        check_list("predictions", predictions, "a list of captions")
        images = range(len(self)) if indices is None else list(indices)
        if len(images) != len(predictions):
            raise ValueError(
                f"`predictions` must have one image each, but {len(predictions)} captions meet {len(images)} "
                "images; pass as many `indices` as captions"
            )
        return [self._score(prediction, image) for prediction, image in zip(predictions, images, strict=True)]

    def _score(self, caption: Caption, image: int) -> float:
        if not 0 <= image < len(self):
            raise ValueError(f"an index must be from 0 to {len(self) - 1}, but is {image}; count images from 0")
        words = _words(caption)
        found, lengths, norms = self._images[image]
        cosines = [0.0] * len(lengths)
        for n in range(1, LONGEST + 1):
            squares, products = self._products(count_ngrams(words, n), found, len(lengths))
            for reference, product in enumerate(products):
                if product:
                    cosines[reference] += product / (math.sqrt(squares) * norms[n - 1][reference])
        length = _length(words)
        similar = [cosine * _near(length - other) for cosine, other in zip(cosines, lengths, strict=True)]
        return 10 * sum(similar) / (LONGEST * len(similar))

    def _products(self, counts: dict[Ngram, int], found: dict, references: int) -> tuple[float, list[float]]:
        """The squared norm of a caption's vector and its clipped products with those of the references."""
        squares = 0.0
        products = [0.0] * references
        for ngram, count in counts.items():
            weight = self._weights.get(ngram, self._unseen)
            squares += count * count * weight
            for reference, other in found.get(ngram, ()):
                products[reference] += (count if count < other else other) * other * weight
        return squares, products

    def _norms(self, found: dict[Ngram, tuple[tuple[int, int], ...]], references: int) -> list[list[float]]:
        squares = [[0.0] * references for _ in range(LONGEST)]
        for ngram, counts in found.items():
            weight = self._weights.get(ngram, self._unseen)
            for reference, count in counts:
                squares[len(ngram) - 1][reference] += count * count * weight
        return [[math.sqrt(square) for square in row] for row in squares]


def cider_d(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Corpus score and scores per image, 0 to 10, keyed "cider_d"; captions come from `tokenize`."""
    scorer = CiderD([[caption.split() for caption in captions] for captions in references])
    scores = scorer.score([prediction.split() for prediction in predictions])
    return {"cider_d": math.fsum(scores) / len(scores)}, {"cider_d": scores}


def _words(caption: Caption) -> Sequence[str]:
    if isinstance(caption, str):
        return tokenize(caption).split()
    if not isinstance(caption, Sequence):
        raise ValueError(
            f"a caption must be a str or a list of words, but is the {type(caption).__name__} "
            f"{caption!r:.60}; decode token ids first"
        )
    return caption


def _length(words: Sequence[str]) -> int:
    """The length that the COCO caption evaluation compares: bigrams, not words."""
    return max(0, len(words) - 1)


def _near(difference: int) -> float:
    return math.exp(-(difference**2) / (2 * SIGMA**2))


def _index(references: Sequence[Sequence[Caption]]) -> list[tuple[dict, list[int]]]:
    """Per image: n-gram to its (reference, count) pairs, and the references' lengths.

    Equal n-grams and equal pairs are stored once for all images, which halves the memory.
    """
    kept: dict = {}
    indexed = []
    for captions in references:
        found: dict[Ngram, tuple[tuple[int, int], ...]] = {}
        lengths = []
        for reference, words in enumerate(map(_words, captions)):
            lengths.append(_length(words))
            for n in range(1, LONGEST + 1):
                for ngram, count in count_ngrams(words, n).items():
                    pairs = (*found.get(ngram, ()), (reference, count))
                    found[kept.setdefault(ngram, ngram)] = kept.setdefault(pairs, pairs)
        indexed.append((found, lengths))
    return indexed


def _count_documents(indexed: Sequence[tuple[dict, list[int]]]) -> DocumentFrequencies:
    counts: Counter[Ngram] = Counter()
    for found, _ in indexed:
        counts.update(found.keys())
    return DocumentFrequencies(counts, len(indexed))


def _check_frequencies(frequencies: DocumentFrequencies) -> None:
    most = max(frequencies.counts.values(), default=1)
    if most > frequencies.images:
        raise ValueError(
            f"`document_frequencies` must count at most its {frequencies.images} images, but counts {most} "
            "for one n-gram; count each n-gram once per image"
        )
