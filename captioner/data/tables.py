"""Tables in one file: CSV, TSV, JSONL or Parquet, with a column of images and columns of texts.

Knows nothing about what its columns mean.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
from datasets import Dataset, Features, Value

from ..base import DataSettings, TextError, json_lines, one_line
from .annotations import named_file, root_of
from .columns import table_rows
from .faults import DataError
from .rows import Rows
from .separated import read_separated


def _from_separated(file: Path, usual: str = ",") -> Dataset:
    columns = read_separated(file, usual)
    return Dataset.from_dict(columns, features=Features(dict.fromkeys(columns, Value("string"))))


def _from_lines(file: Path) -> Dataset:
    """An object on each line; what one of them lacks is None. Texts stay texts, also where they look like dates."""
    rows = list(json_lines(file))
    wrong = next((name for name, row in rows if not isinstance(row, dict)), None)
    if wrong is not None:
        raise DataError(f'{wrong} is no JSON object; write one such as {{"image": …, "captions": …}}')
    if not rows:
        raise DataError(f"{file} is empty; write a JSON object on each line")
    names = {name: None for _, row in rows for name in row}
    return Dataset.from_dict({name: _column(file, name, [row.get(name) for _, row in rows]) for name in names})


def _column(file: Path, name: str, values: list[Any]) -> list[Any]:
    try:
        pyarrow.array(values)
    except (pyarrow.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{file}: the column {name!r} holds values of several kinds: {one_line(error)}") from error
    return values


def _table(file: Path, read: Callable[[Path], Dataset]) -> Dataset:
    """What a reader makes of a file.

    Raises:
        DataError: in place of whatever it raises.
    """
    try:
        return read(file)
    except DataError:
        raise
    except Exception as error:  # pyarrow and datasets raise many kinds for a broken file
        why = str(error) if isinstance(error, TextError) else one_line(error)
        raise DataError(f"{file} cannot be read as {file.suffix}: {why}; repair or convert it") from error


TABLE_READERS: dict[str, Callable[[Path], Dataset]] = {
    ".csv": partial(_table, read=_from_separated),
    ".tsv": partial(_table, read=partial(_from_separated, usual="\t")),
    ".jsonl": partial(_table, read=_from_lines),
    ".parquet": partial(_table, read=lambda file: Dataset.from_parquet(str(file))),
}  # by the suffix of the file; they raise `DataError` alone


def read_table(settings: DataSettings, split: str) -> Rows:
    """`path`: a CSV, TSV, JSONL or Parquet file, or a folder with one, or with one per split named like it.

    `annotations` may name the tables; images are then relative to `path` or to the table's folder. One table
    serves every split; hold images out with slices or `hold_out`.
    """
    file = named_file(settings, split, TABLE_READERS)
    read = TABLE_READERS.get(file.suffix.lower())
    if read is None:
        raise DataError(f"a table must be a {', '.join(TABLE_READERS)} file, but is {file}; convert it")
    return table_rows(read(file), settings, [root_of(settings), file.parent], file, split)
