"""The accuracy of answers to questions that several people answered, soft where they disagree.

Antol et al. 2015 (arXiv 1505.00468) and the normalisation of answers that visualqa.org/evaluation describes: lower
case, number words to digits, no articles, apostrophes put into contractions, punctuation to spaces. Knows
nothing about captions.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from statistics import fmean

FULL_MARKS = 3  # people who gave the answer
ARTICLES = {"a", "an", "the"}
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {word: str(number) for number, word in enumerate(NUMBER_WORDS)} | {"none": "0"}
COMMA_IN_NUMBER = re.compile(r"(?<=\d),(?=\d)")
FULL_STOP = re.compile(r"\.(?!\d)")  # unless it is decimal
PUNCTUATION = re.compile(r"[^\w\s'.:]|_")
ENDINGS = {
    "n't": "ai are ca could did does do had has have is might must need should was wo would",
    "'ve": "could i might must should they we would you who what",
    "'re": "they you who what there",
    "'ll": "it that they you who what there",
    "'s": "he she that there here what where who how when why somebody someone",
    "'d": "they you it who he there",
    "'m": "i",
}  # with which a word stays itself and nothing else: neither "were" nor "its", "ill", "well" or "lets"
WHOLE_WORDS = {"oclock": "o'clock", "maam": "ma'am", "yall": "y'all"}


def _contractions() -> Iterator[tuple[str, str]]:
    """Without apostrophe → with it."""
    for ending, stems in ENDINGS.items():
        for stem in stems.split():
            yield (stem + ending).replace("'", ""), stem + ending


CONTRACTIONS = dict(_contractions()) | WHOLE_WORDS


def normalise(answer: str) -> str:
    """An answer as it is compared: "The Two dogs, please." → "2 dogs please"."""
    text = COMMA_IN_NUMBER.sub("", answer.lower().replace("’", "'"))
    words = PUNCTUATION.sub(" ", FULL_STOP.sub("", text)).split()
    kept = (DIGITS.get(word, word) for word in words if word not in ARTICLES)
    return " ".join(CONTRACTIONS.get(word, word) for word in kept)


def vqa_accuracy(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Corpus score and scores per question, as fractions, keyed "vqa_accuracy"; answers come as they were written."""
    scores = [_score(answer, given) for answer, given in zip(predictions, references, strict=True)]
    return {"vqa_accuracy": fmean(scores)}, {"vqa_accuracy": scores}


def _score(answer: str, given: Sequence[str]) -> float:
    """The mean of min(1, matches / 3) over all ways to leave one person's answer out.

    Where no more than three people answered, that could not reach 1: there a match with any of them counts fully.
    """
    said, people = normalise(answer), [normalise(own) for own in given]
    matches, count = people.count(said), len(people)
    if count <= FULL_MARKS:
        return float(matches > 0)
    without = chain([matches] * (count - matches), [matches - 1] * matches)
    return fmean(min(1.0, left / FULL_MARKS) for left in without)
