"""The built-in dataset: generated scenes whose captions need both the picture and the context.

Coloured shapes on varied backgrounds; the context gives proper names to pairs of colour and shape, also to pairs that
are not in the picture. The one object that the context names is the subject of the caption, so neither the picture
(which name?) nor the context (which of the named is there, where, how large, beside what?) can tell it alone. No two
things that a scene or its context speaks of share a shape, and a name follows its shape: what a tiny decoder can learn
to look up by the word it has just written. A context: "the red circle anna . the blue star otto".

| level | objects | names in the context | a caption |
|---|---|---|---|
| 0 | no picture | 1 to 4 | the blue star otto . the red circle anna |
| 1 | 1 | 1 | the small red circle anna is in the upper left |
| 2 | 2 | 1 or 2 | the small red circle anna is left of the large blue square |
| 3 | 2 | 2 to 4 | the same, with more names to choose from |

Level 0 is a reading exercise: every fact of the context, in any order. Who has learnt it chooses among names at once.

Deterministic: a scene is a function of (seed, split, level, index). Four pairs of colour and shape occur in the test
split only. Knows nothing about how things are drawn.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from .things import COLOURS, PAIRS, SHAPES, SIZES, Thing, corner, draw, of_different_shapes, place_things, relations

NAMES = [
    "anna",
    "bela",
    "carl",
    "dora",
    "emil",
    "fred",
    "gina",
    "hugo",
    "ines",
    "jack",
    "kira",
    "luis",
    "mona",
    "nora",
    "otto",
    "paul",
    "rosa",
    "sven",
    "tina",
    "ugo",
    "vera",
    "wim",
    "yara",
    "zoe",
]
SPLITS = {"train": 0, "validation": 1, "test": 2}
HELD_OUT = (("red", "triangle"), ("green", "star"), ("blue", "circle"), ("purple", "square"))


@dataclass(frozen=True)
class Level:
    """How hard a scene is: objects in the picture, and the least and most names in its context."""

    objects: int
    names: tuple[int, int]


SCENE_LEVELS = {0: Level(0, (1, 4)), 1: Level(1, (1, 1)), 2: Level(2, (1, 2)), 3: Level(2, (2, 4))}
SCENE_VOCABULARY = (
    *NAMES,
    *COLOURS,
    *SHAPES,
    *SIZES,
    *["in", "the", "upper", "lower", "left", "right", "of", "above", "below", ".", "is"],
)


@dataclass(frozen=True)
class Scene:
    """One sample before it becomes a picture and text; the first thing is the subject."""

    level: int
    things: tuple[Thing, ...]
    name: str
    facts: tuple[tuple[str, str, str], ...]  # (name, colour, shape) in the order of the context
    seed: tuple[int, ...]

    @property
    def context(self) -> str:
        """One phrase per name."""
        return " . ".join(f"the {colour} {shape} {name}" for name, colour, shape in self.facts)

    @property
    def captions(self) -> list[str]:
        """Every true caption of the grammar."""
        if not self.things:
            return [" . ".join(said) for said in permutations(f"the {c} {s} {name}" for name, c, s in self.facts)]
        subject, *others = self.things
        start = f"the {subject.words} {self.name} is"
        if not others:
            return [f"{start} in the {corner(subject)}"]
        return [f"{start} {relation} the {others[0].words}" for relation in relations(subject, others[0])]

    def picture(self) -> np.ndarray | None:
        """(SIDE, SIDE, 3) uint8; None on the level without pictures."""
        return draw(self.things, self.seed) if self.things else None


def make_scene(seed: int, split: str, level: int, index: int) -> Scene:
    """The scene at `index` of a split and level."""
    key = (seed, SPLITS[split], level, index)
    rng = np.random.default_rng(key)
    shape = SCENE_LEVELS[level]
    pairs = [pair for pair in PAIRS if split == "test" or pair not in HELD_OUT]
    count = int(rng.integers(shape.names[0], shape.names[1] + 1))
    drawn = of_different_shapes([pairs[i] for i in rng.permutation(len(pairs))])
    seen, absent = drawn[: shape.objects], drawn[shape.objects :]
    names = [NAMES[i] for i in rng.permutation(len(NAMES))[:count]]
    facts = [(name, *pair) for name, pair in zip(names, [*seen[:1], *absent], strict=False)]
    order = rng.permutation(count)
    return Scene(level, place_things(rng, seen), names[0], tuple(facts[i] for i in order), key)


class SceneError(ValueError):
    """Scenes that there are not; the message says which there are."""


class Scenes:
    """Scenes of one split as samples: `image` an array, `captions`, `context`, `id`, and the `level`.

    Levels take turns, so that every stretch of the split holds all of them.
    """

    make: Callable[[int, str, int, int], Any] = staticmethod(make_scene)
    known_levels: Mapping[int, Any] = SCENE_LEVELS
    vocabulary: Sequence[str] = SCENE_VOCABULARY

    def __init__(self, split: str, levels: list[int], count: int, seed: int = 0):
        known = list(self.known_levels)
        if split not in SPLITS or not levels or not set(levels) <= set(known):
            raise SceneError(
                f"scenes have the splits {list(SPLITS)} and the levels {known}, but {split!r} with {levels} "
                "was asked for"
            )
        self.split, self.levels, self.count, self.seed = split, levels, count, seed
        self.texts = [{"captions": list(self.vocabulary), "context": None}]  # what a tokenizer is trained on

    def __len__(self) -> int:
        return self.count

    def scene(self, index: int) -> Any:
        """What `make` makes for `index`: it has `level`, `context`, `captions` and `picture()`."""
        turn, place = divmod(index, len(self.levels))
        return self.make(self.seed, self.split, self.levels[place], turn)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        scene = self.scene(index)
        return {
            "image": scene.picture(),
            "captions": scene.captions,
            "context": scene.context,
            "id": f"{self.split}-{index}",
            "level": scene.level,
        }
