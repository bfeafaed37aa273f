"""A caption as one picture: for every word where it looked, what it read, and how much of each; needs matplotlib.

Knows an `Attribution` and a photo; knows nothing about models.
"""

from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from .attribution import PART_NAMES, Attribution
from .overlays import overlay
from .photos import enlarged, reduced
from .words import Word

CELLS_PER_ROW = 6  # side by side, at most
WIDTH, GAP = 1.9, 0.24  # inches: of a word's cell, and between cells
TITLE, BAR, LINE, HEADER = 0.3, 0.13, 0.15, 0.66  # inches of height
LETTERS, LINES = 26, 14  # of context: in a line, and lines at most
INK, PALE = "#1d2128", "#777d88"
PART_COLOURS = {"patches": "#2f6fd6", "prefix": "#a9c4ef", "context": "#e8891a"}  # of the parts of a bar
OTHER_COLOUR = "#5b9a68"  # of further modalities
METHOD_NAMES = {"attention": "cross-attention", "rollout": "attention rollout", "saliency": "|gradient · state|"}

PICTURE_FORMATS = tuple(FigureCanvasBase.get_supported_filetypes())
Lines = list[list[tuple[int, int, str]]]  # per line: (number of the context word, first letter's column, its text)


class PictureError(ValueError):
    """A picture that cannot be written; the message says what would work."""


class Sheet:
    """A figure that is measured in inches from its upper left corner."""

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), facecolor="white")

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """A frameless area."""
        bottom = self.height - top - height
        axes = self.figure.add_axes((left / self.width, bottom / self.height, width / self.width, height / self.height))
        axes.set_axis_off()
        return axes

    def write(self, left: float, top: float, text: str, **style: Any) -> None:
        """Text whose first line begins at that place."""
        self.figure.text(left / self.width, 1 - top / self.height, text, va="top", **style)


def check_picture_name(path: Path) -> None:
    """Refuse a file name whose ending matplotlib does not write.

    Raises:
        PictureError: such a name.
    """
    if path.suffix[1:].lower() not in PICTURE_FORMATS:
        raise PictureError(f"`--output` must end in one of {', '.join(PICTURE_FORMATS)}, but is {str(path)!r}")


def picture(found: Attribution, photo: Image.Image | None = None, method: str = "attention", **choice: Any) -> Figure:
    """Draw a grid with a cell per word: heat map over the photo, bar "looked / read", context shaded by weight.

    Args:
        photo: what `seen_part` gave; None where there was no image.
        method: one of `METHODS`; `choice` is `layer` and `head`, as in `Attribution.weights`.
    """
    lines = _wrap(found.context)
    height = 0.0 if photo is None else WIDTH * min(max(photo.height / photo.width, 0.4), 1.6)
    step = TITLE + height + 0.05 + BAR + 0.08 + LINE * len(lines) + GAP
    columns = min(CELLS_PER_ROW, len(found.words))
    rows = -(-len(found.words) // columns)
    sheet = Sheet(max(GAP + columns * (WIDTH + GAP), 6.6), HEADER + rows * step)
    balance = found.balance(method=method, **choice)
    _header(sheet, found, METHOD_NAMES[method], [name for name, own in balance.items() if own.sum() > 0])
    heats = None if photo is None else found.heat(method=method, **choice)
    base = None if photo is None else enlarged(reduced(photo, 480), 240)
    readings = found.reading(method=method, **choice)
    for i, word in enumerate(found.words):
        left, top = GAP + (i % columns) * (WIDTH + GAP), HEADER + (i // columns) * step
        sheet.write(left, top + 0.06, shorten(word.text, 20, placeholder="…"), size=11, weight="bold", color=INK)
        top += TITLE
        if base is not None:
            sheet.axes(left, top, WIDTH, height).imshow(overlay(base, heats[i]), aspect="auto")
            top += height + 0.05
        _bar(sheet.axes(left, top, WIDTH, BAR), {name: float(own[i]) for name, own in balance.items()})
        top += BAR + 0.08
        if lines:
            _context(sheet.axes(left, top, WIDTH, LINE * len(lines)), lines, readings[i].tolist())
    return sheet.figure


def _header(sheet: Sheet, found: Attribution, method: str, parts: Sequence[str]) -> None:
    """The caption, and what the colours mean."""
    sheet.write(GAP, 0.1, shorten(found.caption, int(sheet.width * 10), placeholder=" …"), size=13, color=INK)
    left = GAP
    for name in parts:
        colour, meaning = PART_COLOURS.get(name, OTHER_COLOUR), PART_NAMES.get(name, name)
        sheet.axes(left, 0.42, 0.14, 0.14).add_patch(Rectangle((0, 0), 1, 1, color=colour))
        sheet.write(left + 0.2, 0.41, meaning, size=8.5, color=INK)
        left += 0.45 + 0.075 * len(meaning)
    sheet.write(left, 0.41, f"by {method}; each map is clear where its weight is highest", size=8.5, color=PALE)


def _bar(axes: Axes, parts: dict[str, float]) -> None:
    """One bar of length 1, its parts side by side, each with its percentage where that fits."""
    axes.set(xlim=(0, 1), ylim=(0, 1))
    start = 0.0
    for name, share in parts.items():
        axes.add_patch(Rectangle((start, 0), share, 1, color=PART_COLOURS.get(name, OTHER_COLOUR), linewidth=0))
        if share >= 0.14:
            colour = INK if name == "prefix" else "white"
            centre = {"ha": "center", "va": "center_baseline"}
            axes.text(start + share / 2, 0.5, f"{share:.0%}", size=7, color=colour, weight="bold", **centre)
        start += share


def _wrap(words: Sequence[Word]) -> Lines:
    """Context words in lines of `LETTERS`; what does not fit into `LINES` is left out, with a sign."""
    lines: Lines = [[]]
    column = 0
    for i, word in enumerate(words):
        text = shorten(word.text, LETTERS, placeholder="…")
        if column and column + len(text) > LETTERS:
            lines.append([])
            column = 0
        lines[-1].append((i, column, text))
        column += len(text) + 1
    if len(lines) > LINES:
        lines = lines[:LINES]
        lines[-1] = [(-1, 0, "…")]
    return lines if words else []


def _context(axes: Axes, lines: Lines, weights: Sequence[float]) -> None:
    """Words of the context, shaded by their weight over the highest."""
    axes.set(xlim=(0, LETTERS), ylim=(len(lines), 0))
    most = max(max(weights), 1e-12)
    for row, line in enumerate(lines):
        for number, column, text in line:
            depth = 0.0 if number < 0 else weights[number] / most
            box = Rectangle((column - 0.3, row + 0.04), len(text) + 0.6, 0.92, linewidth=0)
            box.set(facecolor=PART_COLOURS["context"], alpha=0.85 * depth)
            axes.add_patch(box)
            place = {"va": "center", "family": "monospace", "size": 7}
            axes.text(column, row + 0.5, text, color=INK if depth > 0.25 else PALE, parse_math=False, **place)
