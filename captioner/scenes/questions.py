"""Questions about generated scenes and their answers, balanced: the question alone gives chance level and no more.

Question and answer are drawn first, every answer as often as any other that the question allows; then a picture is made
in which the answer is true. Level n has n - 1 further things in the picture at least.

| kind | a question | answers | chance |
|---|---|---|---|
| colour | what colour is the circle | six colours | 1/6 |
| count | how many stars are there; how many red things are there | 0, 1, 2, 3 | 1/4 |
| relation | is the circle left or right of the star | left, right; above, below | 1/2 |
| yes_no | is there a red circle | yes, no | 1/2 |

Deterministic, as scenes are: a question is a function of (seed, split, level, index), and kinds take turns. Knows
nothing about how things are drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .scenes import SPLITS, Scenes
from .things import COLOURS, PAIRS, SHAPES, Thing, apart, draw, make_thing, relations

Pair = tuple[str, str]  # colour, shape
PLURALS = {shape: f"{shape}{'es' if shape == 'cross' else 's'}" for shape in SHAPES}
COUNTS = ("0", "1", "2", "3")
ASKED = (("left", "right"), ("above", "below"))
QUESTION_VOCABULARY = (
    *COLOURS,
    *SHAPES,
    *PLURALS.values(),
    *COUNTS,
    *("yes", "no", "what", "colour", "is", "the", "how", "many", "are", "there", "things", "a", "an"),
    *("left", "right", "above", "below", "or", "of"),
)


class Draft(NamedTuple):
    """A question before there is a picture.

    Args:
        pairs: of the things that it takes, in the order that `arranged` is called with.
        further: whether a pair may be in the picture beside them.
        arranged: whether things so placed make the answer true.
    """

    text: str
    answer: str
    pairs: list[Pair]
    further: Callable[[Pair], bool]
    arranged: Callable[[tuple[Thing, ...]], bool] = lambda things: True


@dataclass(frozen=True)
class Question:
    """One question about one picture."""

    level: int
    kind: str
    context: str
    captions: list[str]
    things: tuple[Thing, ...]
    seed: tuple[int, ...]

    def picture(self) -> np.ndarray:
        """(SIDE, SIDE, 3) uint8; a blank scene where there is nothing."""
        return draw(self.things, self.seed)


def _one(rng: np.random.Generator, choices: Any) -> Any:
    choices = list(choices)
    return choices[rng.integers(len(choices))]


def _colour(rng: np.random.Generator) -> Draft:
    colour, shape = _one(rng, PAIRS)
    return Draft(f"what colour is the {shape}", colour, [(colour, shape)], lambda pair: pair[1] != shape)


def _count(rng: np.random.Generator) -> Draft:
    """By shape or by colour."""
    place = rng.integers(2)
    wanted = _one(rng, (COLOURS, SHAPES)[place])
    what = PLURALS[wanted] if place else f"{wanted} things"
    count = int(rng.integers(len(COUNTS)))
    pairs = [_one(rng, (pair for pair in PAIRS if pair[place] == wanted)) for _ in range(count)]
    return Draft(f"how many {what} are there", COUNTS[count], pairs, lambda pair: pair[place] != wanted)


def _relation(rng: np.random.Generator) -> Draft:
    asked = _one(rng, ASKED)
    answer = _one(rng, asked)
    first, second = (str(shape) for shape in rng.permutation(list(SHAPES))[:2])
    beside = f"{' or '.join(asked)}{' of' if 'left' in asked else ''}"
    return Draft(
        f"is the {first} {beside} the {second}",
        answer,
        [(_one(rng, COLOURS), first), (_one(rng, COLOURS), second)],
        lambda pair: pair[1] not in (first, second),
        lambda things: any(relation.split()[0] == answer for relation in relations(*things[:2])),
    )


def _yes_no(rng: np.random.Generator) -> Draft:
    """What is denied differs from something in the picture in its colour alone, or in its shape alone."""
    colour, shape = asked = _one(rng, PAIRS)
    alike = [pair for pair in PAIRS if (pair[0] == colour) != (pair[1] == shape)]
    answer = _one(rng, ("yes", "no"))
    seen = asked if answer == "yes" else _one(rng, alike)
    article = "an" if colour[0] in "aeiou" else "a"
    return Draft(f"is there {article} {colour} {shape}", answer, [seen], lambda pair: pair != asked)


QUESTION_KINDS = {"colour": _colour, "count": _count, "relation": _relation, "yes_no": _yes_no}
QUESTION_LEVELS = {1: 0, 2: 1, 3: 2}  # further things in the picture


def make_question(seed: int, split: str, level: int, index: int) -> Question:
    """The question at `index` of a split and level."""
    key = (seed, SPLITS[split], level, index)
    rng = np.random.default_rng((*key, 2))
    kind = list(QUESTION_KINDS)[index % len(QUESTION_KINDS)]
    draft = QUESTION_KINDS[kind](rng)
    others = [pair for pair in PAIRS if draft.further(pair)]
    pairs = [*draft.pairs, *(_one(rng, others) for _ in range(QUESTION_LEVELS[level]))]
    things = _arrange(rng, pairs, draft.arranged)
    return Question(level, kind, draft.text, [draft.answer], things, key)


def _arrange(
    rng: np.random.Generator, pairs: list[Pair], arranged: Callable[[tuple[Thing, ...]], bool]
) -> tuple[Thing, ...]:
    """Give each pair a size and a place, apart from all before it, until what was said of them is true."""
    while True:
        things: list[Thing] = []
        for _ in range(20 * len(pairs)):
            thing = make_thing(rng, *pairs[len(things)])
            if all(apart(thing, other) for other in things):
                things.append(thing)
            if len(things) == len(pairs):
                break
        if len(things) == len(pairs) and arranged(tuple(things)):
            return tuple(things)


class SceneQuestions(Scenes):
    """Questions of one split as samples: `context` the question, `captions` its one answer, `kind` what is asked."""

    make = staticmethod(make_question)
    known_levels = QUESTION_LEVELS
    vocabulary = QUESTION_VOCABULARY

    def __getitem__(self, index: int) -> dict[str, Any]:
        kinds = list(QUESTION_KINDS)
        return {**super().__getitem__(index), "kind": kinds[index // len(self.levels) % len(kinds)]}
