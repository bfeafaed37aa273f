"""Records of captions in files: JSONL, CSV and Parquet, which appear whole or not at all.

Knows nothing about how captions are made.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ..base import explaining, replacing, some
from .journal import encode

RECORD_COLUMNS = ("image", "caption", "captions", "score", "scores", "context", "error")
LIST_COLUMNS = {"captions": "string", "scores": "float64"}  # → of what, as pyarrow names it
NUMBER_COLUMNS = ("score",)
ROW_GROUP = 10_000

Record = Mapping[str, Any]


class OutputError(ValueError):
    """An output that cannot be used; the message says what would work."""


def _write_jsonl(records: Iterable[Record], file: Path, columns: Sequence[str]) -> None:
    with file.open("wb") as handle:
        handle.writelines(encode(_known(record)) for record in records)


def _known(record: Record) -> dict[str, Any]:
    """A record without what no output has, in the order of its columns."""
    return {name: record[name] for name in RECORD_COLUMNS if name in record}


def _write_csv(records: Iterable[Record], file: Path, columns: Sequence[str]) -> None:
    with file.open("w", encoding="utf-8", errors="backslashreplace", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(columns)
        writer.writerows([_cell(record.get(name)) for name in columns] for record in records)


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


def _write_parquet(records: Iterable[Record], file: Path, columns: Sequence[str]) -> None:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    kinds = {name: pyarrow.list_(getattr(pyarrow, kind)()) for name, kind in LIST_COLUMNS.items()}
    kinds.update(dict.fromkeys(NUMBER_COLUMNS, pyarrow.float64()))
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in columns])
    records = iter(records)
    with ParquetWriter(file, schema) as writer:
        while group := list(islice(records, ROW_GROUP)):
            rows = [{name: _unicode(record.get(name)) for name in columns} for record in group]
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))


def _unicode(value: Any) -> Any:
    """Text with escapes for the bytes of file names that are not UTF-8."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _read_jsonl(file: Path) -> Iterator[Record]:
    with file.open(encoding="utf-8") as handle:
        yield from map(json.loads, filter(str.strip, handle))


def _read_csv(file: Path) -> Iterator[Record]:
    with file.open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            values: dict[str, Any] = dict(row)
            values.update({name: json.loads(row[name]) for name in LIST_COLUMNS if row.get(name)})
            values.update({name: float(row[name]) for name in NUMBER_COLUMNS if row.get(name)})
            yield {name: value for name, value in values.items() if value != "" or name == "caption"}


def _read_parquet(file: Path) -> Iterator[Record]:
    from pyarrow.parquet import ParquetFile

    for batch in ParquetFile(file).iter_batches():
        for row in batch.to_pylist():
            yield {name: value for name, value in row.items() if value is not None}


RECORD_WRITERS: dict[str, Callable[[Iterable[Record], Path, Sequence[str]], None]] = {
    ".jsonl": _write_jsonl,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
RECORD_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def check_records_file(output: Path, option: str) -> None:
    """Refuse a format that is not written.

    Raises:
        OutputError: it is none of `RECORD_WRITERS`.
    """
    if output.is_dir():
        raise OutputError(f"`{option}` is the folder {output}; name a file in it")
    if output.suffix.lower() not in RECORD_WRITERS:
        raise OutputError(f"`{option}` must end in {', '.join(RECORD_WRITERS)}, but is {str(output)!r}")


def write_records(records: Iterable[Record], output: Path, columns: Sequence[str] = RECORD_COLUMNS) -> None:
    """Write records in the format of the output's suffix; the file is replaced once the new one is whole.

    Raises:
        WriteError: disk full, no permission, …; what was there before is still there.
    """
    with explaining(output), replacing(output) as unfinished:
        RECORD_WRITERS[output.suffix.lower()](records, unfinished, columns)


def holds_errors(file: Path) -> bool:
    """Whether a file is a list of images that failed, as a job writes it, and nothing else."""
    try:
        records = list(islice(read_records(file), ROW_GROUP))
    except OutputError:
        return False
    return bool(records) and all("error" in record and "caption" not in record for record in records)


def read_records(output: Path) -> Iterator[Record]:
    """The records of a file that `write_records` wrote.

    Raises:
        OutputError: it holds something else.
    """
    try:
        for record in RECORD_READERS[output.suffix.lower()](output):
            if (
                not isinstance(record, dict)
                or not isinstance(record.get("image"), str)
                or not {"caption", "error"} & set(record)
            ):
                raise ValueError("a record must have `image`, and `caption` or `error`")
            if others := [name for name in record if name not in RECORD_COLUMNS]:
                raise ValueError(f"captions have no {some(others)}")
            yield {k: v for k, v in _known(record).items() if k != "caption" or "error" not in record}
    except (ValueError, OSError, csv.Error) as error:
        remedy = "name another file, or give `--existing overwrite`"
        raise OutputError(f"{output} is there, but not as captions ({error}); {remedy}") from error
