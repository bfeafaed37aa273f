"""Tables in one file: CSV, TSV, JSONL or Parquet, with a column of images and columns of texts.

Knows nothing about what its columns mean.
"""

import csv
from collections.abc import Callable
from pathlib import Path

from datasets import Dataset, Features, Value
from datasets.exceptions import DatasetsError

from ..base import DataSettings, one_line
from .annotations import named_file, root_of
from .columns import table_rows
from .rows import DataError, Rows


def _read_separated(file: Path, separator: str = ",") -> Dataset:
    """All cells stay text: an id 007 and a caption "None" are what they look like."""
    with file.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.reader(handle, delimiter=separator)
        header, rows = next(reader, []), []
        for cells in filter(None, reader):
            if len(cells) != len(header):
                found = f"line {reader.line_num} has {len(cells)} cells below a header of {len(header)}"
                raise DataError(f"{file}: {found}; quote cells that contain {separator!r} or line ends")
            rows.append(cells)
    columns = {name: [cells[place] for cells in rows] for place, name in enumerate(header)}
    return Dataset.from_dict(columns, features=Features(dict.fromkeys(header, Value("string"))))


TABLE_READERS: dict[str, Callable[[Path], Dataset]] = {
    ".csv": _read_separated,
    ".tsv": lambda file: _read_separated(file, "\t"),
    ".jsonl": lambda file: Dataset.from_json(str(file)),
    ".parquet": lambda file: Dataset.from_parquet(str(file)),
}  # by the suffix of the file


def read_table(settings: DataSettings, split: str) -> Rows:
    """`path`: a CSV, TSV, JSONL or Parquet file, or a folder with one, or with one per split named like it.

    `annotations` may name the tables; images are then relative to `path` or to the table's folder. One table
    serves whatever split is asked for; hold images out with slices.
    """
    file = named_file(settings, split, TABLE_READERS)
    read = TABLE_READERS.get(file.suffix.lower())
    if read is None:
        raise DataError(f"a table must be a {', '.join(TABLE_READERS)} file, but is {file}; convert it")
    try:
        table = read(file)
    except DataError:
        raise
    except (ValueError, OSError, DatasetsError) as error:
        raise DataError(f"{file} cannot be read as {file.suffix}: {one_line(error)}; repair or convert it") from error
    return table_rows(table, settings, [root_of(settings), file.parent])
