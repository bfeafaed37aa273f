"""Tables of text with a sign between their cells, as spreadsheets, pandas and people write them: CSV and TSV.

What separates the cells is seen from the header. Cells stay text: an id 007 and a caption "None" are what they look
like. Knows nothing about what columns mean.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..base import SUFFIXES, lines_of, read_text
from .faults import DataError

SEPARATORS = (",", ";", "\t", "|")
QUOTING = (",", ";")  # separators whose cells may be quoted over several lines
QUOTED_CELL = re.compile(r'"((?:[^"]|"")*)"')
LONGEST_CELL = 2**31 - 1  # letters; Python's own limit is 131,072
STRAY = "a quotation mark that opens a cell is not closed where the cell ends; double the marks within a quoted cell"

Row = tuple[int, list[str]]  # the line that a row ends on, and its cells


def read_separated(file: Path, usual: str = ",") -> dict[str, list[str]]:
    """The columns of a table by the names in its header.

    Args:
        usual: what separates cells in files of this suffix; taken unless the header has another sign instead.

    Raises:
        OSError, TextError: it cannot be read.
        DataError: no header, a name that is there twice, a row with other cells than the header, or a stray quote.
    """
    text = read_text(file)
    named = re.match(r"sep=(.)\r?\n", text)  # a line of Excel's
    text = text[named.end() :] if named else text
    separator = named[1] if named else _separator(text, usual)
    rows = list(_rows(file, text, separator))
    if not rows:
        raise DataError(f"{file} is empty; give it a line with the names of its columns")
    header = [name.strip() or f"column {place}" for place, name in enumerate(rows[0][1], start=1)]
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{file} has the column {twice!r} twice; rename one")
    return {name: [cells[place] for _, cells in rows[1:]] for place, name in enumerate(header)}


def _separator(text: str, usual: str) -> str:
    """The usual one, unless the header is a single cell by it and several by another."""
    header = text.split("\n", 1)[0].strip()
    cells = {sign: len(next(csv.reader([header], delimiter=sign), [])) for sign in (usual, *SEPARATORS)}
    return usual if cells[usual] > 1 else max(cells, key=cells.__getitem__)


def _rows(file: Path, text: str, separator: str) -> Iterable[Row]:
    """The rows of a table that are not blank, its header first, each with as many cells."""
    if separator in QUOTING:
        return _checked(file, _quoted_rows(file, text, separator), separator)
    try:
        return _checked(file, _rows_by_line(text, separator), separator)
    except DataError:
        try:
            return _checked(file, _quoted_rows(file, text, separator), separator)
        except DataError:
            pass
        raise


def _checked(file: Path, rows: Iterable[Row], separator: str) -> list[Row]:
    kept = [(number, cells) for number, cells in rows if any(map(str.strip, cells))]
    for number, cells in kept[1:]:
        if len(cells) != len(kept[0][1]):
            found = f"line {number} has {len(cells)} cells below a header of {len(kept[0][1])}"
            raise DataError(f"{file}: {found}; quote cells that contain {separator!r} or line ends")
    return kept


def _rows_by_line(text: str, separator: str) -> Iterator[Row]:
    """A row on each line; a quotation mark is a sign like any other, unless a cell is quoted from end to end."""
    for number, line in enumerate(lines_of(text), start=1):
        cells = [cell if separator == "\t" else cell.strip() for cell in line.split(separator)]
        yield number, [own[1].replace('""', '"') if (own := QUOTED_CELL.fullmatch(cell)) else cell for cell in cells]


def _quoted_rows(file: Path, text: str, separator: str) -> Iterator[Row]:
    """Rows whose cells may be quoted; where the header has spaces behind its separators, the rows may have them too."""
    lines = io.StringIO(text, newline="").readlines()
    spaced = bool(lines) and f"{separator} " in lines[0]
    reader, last, width = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=spaced), 0, None
    try:
        with _long_cells():
            for cells in reader:
                width = width or len(cells)
                _refuse_swallowed(file, lines[last : reader.line_num], separator, width, last + 1)
                last = reader.line_num
                yield last, cells
    except csv.Error as error:
        raise DataError(f"{file}, line {last + 1}: {STRAY} ({error})") from error


def _refuse_swallowed(file: Path, lines: list[str], separator: str, width: int, first: int) -> None:
    """Lines that one row spans must not look like rows of their own, each with the name of an image."""
    for line in lines[1:]:
        cells = [cell.strip().strip('"') for cell in line.split(separator)]
        if len(cells) == width and any(Path(cell).suffix.lower() in SUFFIXES for cell in cells):
            raise DataError(f"{file}, line {first}: {STRAY}, or it would hold the row {line.strip()[:60]!r}")


@contextmanager
def _long_cells() -> Iterator[None]:
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)
