"""How the tokens of a picture lie on it. Knows numbers only."""

import math
from typing import NamedTuple


class Grid(NamedTuple):
    """How image tokens lie on the picture: `prefix` tokens that see all of it, then `height` rows of `width`."""

    prefix: int
    height: int
    width: int


def nearest_grid(prefix: int, tokens: int, height: int, width: int) -> Grid:
    """How `tokens` tokens of a picture of `height` × `width` lie on it.

    Of the grids with that many cells, the one whose cells are nearest to squares is taken: what every backbone of
    square patches or equal strides has.
    """
    cells = tokens - prefix
    heights = [rows for rows in range(1, cells + 1) if cells % rows == 0]
    rows = min(heights, key=lambda rows: abs(math.log(rows * rows * width / (cells * height))))
    return Grid(prefix, rows, cells // rows)
