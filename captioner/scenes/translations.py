"""Generated scenes spoken of in English, to be said in German; the English leaves out or blurs what the picture shows.

| blur | English | what only the picture tells |
|---|---|---|
| colourless | the small circle | the colour |
| ambiguous | the small red round one | the noun (disc or ring), and with it the gender |
| pronoun | it | the gender: er, sie or es |

At least one thing of every sentence is blurred. Only the sentence tells which thing is spoken of first, in which of its
true relations, and who sees it; so both are needed. Level 1 has one thing and a corner ("anna sees it in the upper
left"), level 2 two things ("the small round one is left of the large blue square").

Deterministic, as scenes are: a translation is a function of (seed, split, level, index). Knows nothing about how things
are drawn, nor about German grammar.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from .german import GERMAN_CORNERS, GERMAN_RELATIONS, GERMAN_WORDS, Speaking, described, pronoun
from .scenes import NAMES, SPLITS, Scenes
from .things import (
    COLOURS,
    PAIRS,
    SHAPES,
    SIZES,
    Thing,
    corner,
    draw,
    of_different_shapes,
    place_things,
    relations,
)

KINDS_OF_SHAPES = {
    "circle": "round",
    "ring": "round",
    "triangle": "pointed",
    "star": "pointed",
    "square": "angular",
    "cross": "angular",
}
ENGLISH = ("the", "one", "it", "is", "sees", "in", "of", "upper", "lower", "left", "right", "above", "below")
TRANSLATION_VOCABULARY = tuple(
    dict.fromkeys([*NAMES, *COLOURS, *SHAPES, *SIZES, *KINDS_OF_SHAPES.values(), *ENGLISH, *GERMAN_WORDS])
)  # of both german


class Blur(NamedTuple):
    """A way to speak of a thing: in English, and in German once it has been seen."""

    english: Callable[[Thing], str]
    german: Speaking


PLAIN = Blur(lambda thing: f"the {thing.words}", described)
COLOURLESS = Blur(lambda thing: f"the {thing.size} {thing.shape}", described)
AMBIGUOUS = Blur(lambda thing: f"the {thing.size} {thing.colour} {KINDS_OF_SHAPES[thing.shape]} one", described)
PRONOUN = Blur(lambda thing: "it", pronoun)
FIRST = (PLAIN, COLOURLESS, AMBIGUOUS, PRONOUN)  # of the thing that is spoken of first
BLURS = {
    1: tuple((blur,) for blur in FIRST[1:]),
    2: tuple(blurs for blurs in product(FIRST, FIRST[:3]) if blurs != (PLAIN, PLAIN)),
}  # level → a blur for each of its things


@dataclass(frozen=True)
class Translation:
    """One sentence in both german about one picture."""

    level: int
    context: str
    captions: list[str]
    things: tuple[Thing, ...]
    seed: tuple[int, ...]

    def picture(self) -> np.ndarray:
        """(SIDE, SIDE, 3) uint8."""
        return draw(self.things, self.seed)


def make_translation(seed: int, split: str, level: int, index: int) -> Translation:
    """The sentence at `index` of a split and level."""
    key = (seed, SPLITS[split], level, index)
    rng = np.random.default_rng((*key, 3))
    blurs = BLURS[level][rng.integers(len(BLURS[level]))]
    pairs = of_different_shapes([PAIRS[i] for i in rng.permutation(len(PAIRS))])
    things = place_things(rng, pairs[: len(blurs)])
    english, german = _where(rng, things, blurs)
    name = NAMES[rng.integers(len(NAMES))]
    first = blurs[0]
    if rng.integers(2):
        source = f"{name} sees {first.english(things[0])} {english}"
        target = f"{name} sieht {first.german(things[0], 'accusative')} {german}"
    else:
        source = f"{first.english(things[0])} is {english}"
        target = f"{first.german(things[0], 'nominative')} ist {german}"
    return Translation(level, source, [target], things, key)


def _where(rng: np.random.Generator, things: tuple[Thing, ...], blurs: tuple[Blur, ...]) -> tuple[str, str]:
    """Where the first thing is, in both german: a corner, or seen from the other thing."""
    if len(things) == 1:
        quarter = corner(things[0])
        return f"in the {quarter}", GERMAN_CORNERS[quarter]
    true = relations(*things)
    relation = true[rng.integers(len(true))]
    other, blur = things[1], blurs[1]
    return f"{relation} {blur.english(other)}", f"{GERMAN_RELATIONS[relation]} {blur.german(other, 'dative')}"


class SceneTranslations(Scenes):
    """Sentences of one split as samples: `context` is the English one, `captions` the German one."""

    make = staticmethod(make_translation)
    known_levels = BLURS
    vocabulary = TRANSLATION_VOCABULARY
