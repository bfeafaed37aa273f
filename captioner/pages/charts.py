"""Curves over the steps of a run, as SVG that takes its colours from the page around it.

Knows points; knows nothing about runs and where their numbers lie.
"""

import math
from collections.abc import Callable, Sequence
from html import escape

Points = Sequence[tuple[int, float]]  # (step, value)

WIDTH, HEIGHT = 360, 190  # of a chart, in its own units
LEFT, RIGHT, TOP, BOTTOM = 42, 348, 14, 162  # of its plot


def chart(points: Points, name: str, ceiling: float, write: Callable[[float], str]) -> str:
    """A line over steps as SVG, from 0 to `ceiling`; the last point carries its value."""
    points = _finite(points)
    last = points[-1][0] if points else 1
    places = [
        (LEFT + (RIGHT - LEFT) * step / last, BOTTOM - (BOTTOM - TOP) * min(value / ceiling, 1))
        for step, value in points
    ]
    drawn = _grid(ceiling, last, write) + _line(places)
    for (step, value), (x, y) in zip(points, places, strict=True):
        dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{3.5 if len(points) <= 20 else 1.8}">'
        drawn += f"{dot}<title>step {step}: {write(value)}</title></circle>"
    if points:
        x, y = places[-1]
        drawn += (
            f'<text class="last" x="{x:.1f}" y="{y - 8 if y > TOP + 14 else y + 18:.1f}">{write(points[-1][1])}</text>'
        )
        said = f"{name} over {len(points)} points: {write(points[-1][1])} at step {last}"
    else:
        said = f"{name}: nothing was logged"
        drawn += (
            f'<text x="{(LEFT + RIGHT) / 2}" y="{(TOP + BOTTOM) / 2}" text-anchor="middle">nothing was logged</text>'
        )
    figure = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(said)}">{drawn}</svg>'
    return f"<figure><figcaption>{escape(name)}</figcaption>{figure}</figure>"


def ceiling_above(points: Points) -> float:
    """The smallest of 1, 2, 5 times a power of ten that no value exceeds."""
    highest = max((value for _, value in _finite(points)), default=1.0)
    power = 10.0 ** math.floor(math.log10(max(highest, 1e-6)))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= highest), 10 * power)


def _finite(points: Points) -> Points:
    return [(step, value) for step, value in points if math.isfinite(value)]


def _grid(ceiling: float, last: int, write: Callable[[float], str]) -> str:
    """Horizontal lines at quarters with their values at halves; steps below."""
    lines = ""
    for i in range(5):
        y = BOTTOM - (BOTTOM - TOP) * i / 4
        lines += f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>'
        if i % 2 == 0:
            lines += f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{write(ceiling * i / 4)}</text>'
    steps = [(LEFT, "0", "start"), (RIGHT, f"step {last}", "end")]
    return lines + "".join(
        f'<text x="{x}" y="{BOTTOM + 18}" text-anchor="{anchor}">{text}</text>' for x, text, anchor in steps
    )


def _line(places: Sequence[tuple[float, float]]) -> str:
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline points="{corners}"/>' if len(places) > 1 else ""
