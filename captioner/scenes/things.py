"""The things of a scene: what they look like, where they are, how they lie to each other, and the picture of them.

Coloured shapes on varied backgrounds. Knows nothing about captions, names or levels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

SIDE = 64  # pixels of a scene
COLOURS = {
    "red": (214, 40, 40),
    "green": (46, 160, 67),
    "blue": (40, 84, 214),
    "yellow": (240, 200, 30),
    "purple": (140, 60, 180),
    "orange": (245, 130, 30),
}
SIZES = {"small": (6.0, 7.5), "large": (10.5, 12.5)}  # half the extent, pixels


@dataclass(frozen=True)
class Thing:
    """One object: what it looks like and where its centre is, in pixels."""

    size: str
    colour: str
    shape: str
    x: float
    y: float
    radius: float

    @property
    def words(self) -> str:
        """How a caption describes it."""
        return f"{self.size} {self.colour} {self.shape}"


def _circle(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.hypot(x, y) - r


def _square(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.88 * r


def _triangle(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.maximum(0.87 * np.abs(x) - 0.5 * y, y) - 0.52 * r


def _star(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    """Four points: the p-norm with p = 1/2."""
    return 0.4 * ((np.sqrt(np.abs(x)) + np.sqrt(np.abs(y))) ** 2 - 1.35 * r)


def _ring(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.77 * r) - 0.23 * r


def _cross(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    long, short = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
    return np.maximum(long - r, short - 0.3 * r)


SHAPES: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
}  # shape → signed distance in pixels from the outline of a figure of half extent r
PAIRS = tuple(product(COLOURS, SHAPES))


def of_different_shapes(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The first pair of each shape, in order."""
    return list({shape: (colour, shape) for colour, shape in reversed(pairs)}.values())[::-1]


def place_things(rng: np.random.Generator, pairs: list[tuple[str, str]]) -> tuple[Thing, ...]:
    """Give each pair a size and a place, apart from each other and, when alone, off the picture's middle lines."""
    while True:
        things = tuple(make_thing(rng, *pair) for pair in pairs)
        if not things:
            return things
        if len(things) == 1 and min(abs(things[0].x - SIDE / 2), abs(things[0].y - SIDE / 2)) > 5:
            return things
        if len(things) == 2 and apart(*things) and relations(*things):
            return things


def make_thing(rng: np.random.Generator, colour: str, shape: str) -> Thing:
    """A thing of any size anywhere in the picture."""
    size = ("small", "large")[rng.integers(2)]
    radius = rng.uniform(*SIZES[size])
    x, y = rng.uniform(radius + 1, SIDE - radius - 1, 2)
    return Thing(size, colour, shape, x, y, radius)


def apart(a: Thing, b: Thing) -> bool:
    """Whether two things leave a gap between them."""
    return max(abs(a.x - b.x), abs(a.y - b.y)) > a.radius + b.radius + 1


def draw(things: tuple[Thing, ...], seed: tuple[int, ...]) -> np.ndarray:
    """Things on a background that the seed chooses: (SIDE, SIDE, 3) uint8."""
    rng = np.random.default_rng((*seed, 1))
    canvas = _background(rng)
    for thing in things:
        window, cover = _cover(thing)
        tint = np.array(COLOURS[thing.colour]) + rng.uniform(-14, 14, 3)
        canvas[window] += cover[..., None] * (tint - canvas[window])
    return np.clip(canvas, 0, 255).astype(np.uint8)


def corner(thing: Thing) -> str:
    """The quarter of the picture that a thing is in."""
    return f"{'upper' if thing.y < SIDE / 2 else 'lower'} {'left' if thing.x < SIDE / 2 else 'right'}"


def relations(a: Thing, b: Thing, least: float = 9.0) -> list[str]:
    """Where a is, seen from b; on a diagonal two relations are true, below `least` pixels none is claimed."""
    offsets = {"left of": b.x - a.x, "right of": a.x - b.x, "above": b.y - a.y, "below": a.y - b.y}
    return [relation for relation, offset in offsets.items() if offset >= least]


@cache
def _grid() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    return x, y


def _cover(thing: Thing) -> tuple[tuple[slice, slice], np.ndarray]:
    """The window of pixels around a thing, and how much of each it covers, 0 to 1."""
    reach = thing.radius + 1
    rows, columns = (slice(max(0, int(c - reach)), int(c + reach) + 1) for c in (thing.y, thing.x))
    x, y = (axis[rows, columns] for axis in _grid())
    cover = np.clip(0.5 - SHAPES[thing.shape](x - thing.x, y - thing.y, thing.radius), 0, 1)
    return (rows, columns), cover


def _flat(rng: np.random.Generator) -> np.ndarray:
    return np.zeros((SIDE, SIDE))


def _slope(rng: np.random.Generator) -> np.ndarray:
    x, y = _grid()
    angle = rng.uniform(0, 2 * np.pi)
    return ((x - SIDE / 2) * np.cos(angle) + (y - SIDE / 2) * np.sin(angle)) / SIDE


def _stripes(rng: np.random.Generator) -> np.ndarray:
    return 0.35 * np.sin(_slope(rng) * rng.uniform(20, 50))


def _grain(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-0.4, 0.4, (SIDE // 4, SIDE // 4)).repeat(4, axis=0).repeat(4, axis=1)


BACKGROUNDS = (_flat, _slope, _stripes, _grain)


def _background(rng: np.random.Generator) -> np.ndarray:
    """A muted colour, dark or light, with a pattern: (SIDE, SIDE, 3) floats."""
    base = (60, 200)[rng.integers(2)] + rng.uniform(-40, 40) + rng.uniform(-12, 12, 3)
    pattern = BACKGROUNDS[rng.integers(len(BACKGROUNDS))](rng)
    return base + 45 * pattern[..., None]
