"""How German speaks of scenes: gender, case and weak adjectives, in lower case as all that is said of scenes.

Forms are those of the definite article, of adjectives after it, and of the personal pronoun (Duden, Die Grammatik).
Knows nothing about English or what is blurred.
"""

from collections.abc import Callable
from typing import NamedTuple

from .things import Thing


class Noun(NamedTuple):
    """A word and its gender: m, f or n."""

    word: str
    gender: str


NOUNS = {
    "circle": Noun("scheibe", "f"),
    "square": Noun("quadrat", "n"),
    "triangle": Noun("dreieck", "n"),
    "star": Noun("stern", "m"),
    "ring": Noun("ring", "m"),
    "cross": Noun("kreuz", "n"),
}
ADJECTIVES = {
    "small": "klein",
    "large": "groß",
    "red": "rot",
    "green": "grün",
    "blue": "blau",
    "yellow": "gelb",
    "purple": "violett",
    "orange": "orangefarben",
}
ARTICLE_FORMS = {
    "nominative": {"m": "der", "f": "die", "n": "das"},
    "accusative": {"m": "den", "f": "die", "n": "das"},
    "dative": {"m": "dem", "f": "der", "n": "dem"},
}
PRONOUN_FORMS = {
    "nominative": {"m": "er", "f": "sie", "n": "es"},
    "accusative": {"m": "ihn", "f": "sie", "n": "es"},
}
GERMAN_RELATIONS = {
    "left of": "links von",
    "right of": "rechts von",
    "above": "über",
    "below": "unter",
}  # all with dative
GERMAN_CORNERS = {
    "upper left": "oben links",
    "upper right": "oben rechts",
    "lower left": "unten links",
    "lower right": "unten rechts",
}


def described(thing: Thing, case: str) -> str:
    """A thing by size, colour and shape: "dem kleinen roten stern"."""
    noun = NOUNS[thing.shape]
    short = case == "nominative" or (case == "accusative" and noun.gender != "m")
    adjectives = (ADJECTIVES[word] + ("e" if short else "en") for word in (thing.size, thing.colour))
    return " ".join([ARTICLE_FORMS[case][noun.gender], *adjectives, noun.word])


def pronoun(thing: Thing, case: str) -> str:
    """A thing by its gender alone: "er"."""
    return PRONOUN_FORMS[case][NOUNS[thing.shape].gender]


Speaking = Callable[[Thing, str], str]  # a thing and a case → words
GERMAN_WORDS = (
    *(noun.word for noun in NOUNS.values()),
    *(stem + ending for stem in ADJECTIVES.values() for ending in ("e", "en")),
    *(form for forms in (ARTICLE_FORMS, PRONOUN_FORMS) for row in forms.values() for form in row.values()),
    *" ".join([*GERMAN_RELATIONS.values(), *GERMAN_CORNERS.values()]).split(),
    *("ist", "sieht"),
)
