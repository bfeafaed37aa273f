"""The pages of `captioner demo` and `captioner evaluate`: plain data to one HTML file that needs nothing beside it.

Knows nothing about models or how the numbers came to be. Every text is escaped, so callers pass plain text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from string import Template

from .cards import Card, card_list, further_modalities
from .charts import Points, ceiling_above, chart

TEMPLATES = Path(__file__).parents[1] / "templates"


@dataclass(frozen=True)
class Column:
    """One number of the table: the heading above its group, its name, and how it is written.

    Args:
        group: columns of a group are adjacent.
        share: whether it is a fraction of 1, shown as a bar.
    """

    group: str
    name: str
    share: bool

    def write(self, value: float) -> str:
        """The number as the table shows it."""
        return percent(value) if self.share else cider(value)


@dataclass(frozen=True)
class Row:
    """One line of the table: who captioned, what it was given, and a number per column."""

    mode: str
    given: str
    values: Sequence[float]


@dataclass(frozen=True)
class Curve:
    """Numbers over the steps of a run; `share` as in `Column`."""

    name: str
    points: Points
    share: bool = False


@dataclass(frozen=True)
class Training:
    """Curves of a run and a sentence about it."""

    summary: str
    curves: Sequence[Curve]


@dataclass(frozen=True)
class Page:
    """Everything on a page.

    Args:
        title: of the window and above the heading.
        heading: in words; a part between asterisks is set off.
        about: what the table's numbers mean.
        training: curves, or nothing where no run is known.
        samples: what the cards are, in words.
        commands: pairs of what a command does and the command.
    """

    title: str
    heading: str
    intro: Sequence[str]
    about: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    training: Training | None
    samples: str
    cards: Sequence[Card]
    commands: Sequence[tuple[str, str]] = ()


def render(page: Page) -> str:
    """The page as HTML."""
    before, emphasis, after = [*page.heading.split("*"), "", ""][:3]
    return Template((TEMPLATES / "page.html").read_text(encoding="utf-8")).substitute(
        style=style("page.css") + style("maps.css"),
        title=escape(page.title),
        heading=f"{escape(before)}<em>{escape(emphasis)}</em>{escape(after)}",
        intro="\n".join(f"<p>{escape(text)}</p>" for text in page.intro),
        about=escape(page.about),
        table=table(page.columns, page.rows),
        training=_training(page.training),
        samples=escape(page.samples),
        further="".join(map(_legend, further_modalities(page.cards))),
        cards=card_list(page.cards),
        commands=_commands(page.commands),
    )


def _legend(modality: str) -> str:
    """What a bar's colour of further modalities stands for, beside what bars always show."""
    return f'\n<span class="key"><i class="swatch is-further"></i> {escape(modality)}</span>'


def style(name: str) -> str:
    """A style sheet of the package."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def percent(share: float) -> str:
    """How pages and the terminal write a fraction."""
    return f"{100 * share:.1f} %"


def cider(score: float) -> str:
    """How pages and the terminal write a CIDEr-D, on its scale of 0 to 10."""
    return f"{score:.2f}"


def millions(count: int) -> str:
    """How pages and the terminal write a number of parameters, without the word."""
    return f"{count / 1e6:.2f}"


def table(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """Rows grouped by mode; the bar behind a fraction is as long as the number says."""
    groups = [(name, len(list(own))) for name, own in groupby(columns, lambda column: column.group)]
    top = "".join(f'<th colspan="{size}" scope="colgroup">{escape(name)}</th>' for name, size in groups)
    names = "".join(f'<th scope="col">{escape(column.name)}</th>' for column in columns)
    bodies = (
        f'<tbody><tr><th class="mode" colspan="{1 + len(columns)}" scope="rowgroup">{escape(mode)}</th></tr>'
        + "".join(_table_row(columns, row) for row in own)
        + "</tbody>"
        for mode, own in groupby(rows, lambda row: row.mode)
    )
    head = f'<thead><tr><td></td>{top}</tr><tr><th scope="col">given</th>{names}</tr></thead>'
    return f"<table>{head}{''.join(bodies)}</table>"


def _table_row(columns: Sequence[Column], row: Row) -> str:
    cells = "".join(
        f'<td class="share" style="--share:{100 * value:.1f}%">{column.write(value)}</td>'
        if column.share
        else f"<td>{column.write(value)}</td>"
        for column, value in zip(columns, row.values, strict=True)
    )
    return f'<tr><th scope="row">{escape(row.given)}</th>{cells}</tr>'


def _training(training: Training | None) -> str:
    if training is None:
        return ""
    charts = "".join(
        chart(
            curve.points,
            curve.name,
            1.0 if curve.share else ceiling_above(curve.points),
            ("{:.0%}" if curve.share else "{:.2g}").format,
        )
        for curve in training.curves
    )
    summary = f"<p>{escape(training.summary)}</p>"
    return f'<section>\n<h2>Training</h2>\n{summary}\n<div class="charts">{charts}</div>\n</section>'


def _commands(commands: Sequence[tuple[str, str]]) -> str:
    if not commands:
        return ""
    listed = "\n".join(f"<dt>{escape(what)}</dt><dd><code>{escape(line)}</code></dd>" for what, line in commands)
    return f'<section>\n<h2>What to type next</h2>\n<dl class="commands">\n{listed}\n</dl>\n</section>'
