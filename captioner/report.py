"""The page of `captioner demo`: from plain data to one HTML file that needs nothing beside it.

Knows nothing about models or how the numbers came to be. Every text is escaped here, so callers pass plain text.
"""

import math
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from itertools import groupby
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

TEMPLATES = Path(__file__).parent / "templates"
SCALE = 3  # a picture's pixels become squares of this side

Points = Sequence[tuple[int, float]]  # (step, value)


@dataclass(frozen=True)
class Row:
    """One line of the table: who captioned, what it was given, and per level exact match and CIDEr-D."""

    mode: str
    given: str
    scores: dict[int, tuple[float, float]]


@dataclass(frozen=True)
class Live:
    """The training that was watched: mean losses, validations' exact match, and how it ended."""

    loss: Points
    exact_match: Points
    summary: str


@dataclass(frozen=True)
class Answer:
    """One caption of a scene."""

    mode: str
    given: str
    caption: str
    right: bool


@dataclass(frozen=True)
class Card:
    """One scene; `picture` is (height, width, 3) uint8, answers of a mode are adjacent."""

    level: int
    picture: np.ndarray
    context: str
    references: list[str]
    answers: list[Answer]


@dataclass(frozen=True)
class Page:
    """Everything on the page; `commands` are pairs of what a command does and the command."""

    intro: list[str]
    rows: list[Row]
    live: Live
    cards: list[Card]
    commands: list[tuple[str, str]]


def render(page: Page) -> str:
    """The page as HTML."""
    template = Template((TEMPLATES / "demo.html").read_text(encoding="utf-8"))
    return template.substitute(
        style=(TEMPLATES / "demo.css").read_text(encoding="utf-8"),
        intro="\n".join(f"<p>{escape(text)}</p>" for text in page.intro),
        table=table(page.rows),
        loss=chart(page.live.loss, "training loss", ceiling_above(page.live.loss), "{:.2g}".format),
        exact=chart(page.live.exact_match, "exact match in validation", 1.0, "{:.0%}".format),
        live=escape(page.live.summary),
        cards="\n".join(map(card, page.cards)),
        commands="\n".join(
            f"<dt>{escape(what)}</dt><dd><code>{escape(line)}</code></dd>" for what, line in page.commands
        ),
    )


def percent(share: float) -> str:
    """How the page and the terminal write an exact match."""
    return f"{100 * share:.1f} %"


def cider(score: float) -> str:
    """How the page and the terminal write a CIDEr-D, on its scale of 0 to 10."""
    return f"{score:.2f}"


def table(rows: Sequence[Row]) -> str:
    """Rows grouped by mode; the bar behind an exact match is as long as the number says."""
    levels = list(rows[0].scores)
    top = "".join(f'<th colspan="2" scope="colgroup">level {level}</th>' for level in levels)
    names = '<th scope="col">exact match</th><th scope="col">CIDEr-D</th>' * len(levels)
    bodies = (
        f'<tbody><tr><th class="mode" colspan="{1 + 2 * len(levels)}" scope="rowgroup">{escape(mode)}</th></tr>'
        + "".join(map(_table_row, group))
        + "</tbody>"
        for mode, group in groupby(rows, lambda row: row.mode)
    )
    head = f'<thead><tr><td></td>{top}</tr><tr><th scope="col">given</th>{names}</tr></thead>'
    return f"<table>{head}{''.join(bodies)}</table>"


def _table_row(row: Row) -> str:
    cells = "".join(
        f'<td class="exact" style="--share:{100 * exact:.1f}%">{percent(exact)}</td><td>{cider(score)}</td>'
        for exact, score in row.scores.values()
    )
    return f'<tr><th scope="row">{escape(row.given)}</th>{cells}</tr>'


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


def card(scene: Card) -> str:
    """A scene: what was seen and read, what is true, and what each captioner said of it."""
    sides = f'width="{SCALE * scene.picture.shape[1]}" height="{SCALE * scene.picture.shape[0]}"'
    references = "".join(f"<li>{escape(text)}</li>" for text in scene.references)
    answers = "".join(
        f'<div class="said"><h3>{escape(mode)}</h3><dl>{"".join(map(_answer, group))}</dl></div>'
        for mode, group in groupby(scene.answers, lambda answer: answer.mode)
    )
    return f"""<article>
<div class="scene"><img src="{data_uri(scene.picture)}" {sides} alt="the picture of the scene">
<div><p class="level">level {scene.level}</p>
<h3>context</h3><p class="context">{escape(scene.context)}</p>
<h3>true captions</h3><ul>{references}</ul></div></div>
{answers}
</article>"""


def _answer(answer: Answer) -> str:
    kind, mark = ("right", "✓") if answer.right else ("wrong", "✗")
    said = escape(answer.caption) or "(nothing)"
    return (
        f'<div><dt>{escape(answer.given)}</dt><dd class="{kind}"><b title="{kind}" aria-label="{kind}:">{mark}</b>'
        f"<span>{said}</span></dd></div>"
    )


def data_uri(picture: np.ndarray) -> str:
    """A picture as PNG inside an address, its pixels enlarged to crisp squares."""
    large = picture.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    sink = BytesIO()
    Image.fromarray(large).save(sink, format="PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(sink.getvalue()).decode()}"
