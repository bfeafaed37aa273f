"""Where captions go: JSONL, CSV and Parquet files that appear whole or not at all, and a text file beside each image.

Knows nothing about how captions are made.
"""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..base import WriteError, explaining, replacing
from .journal import encode

COLUMNS = ("image", "caption", "captions", "score", "scores", "context", "error")
LISTS = {"captions": "string", "scores": "double"}
NUMBERS = ("score",)
ROW_GROUP = 10_000

Record = Mapping[str, Any]


class OutputError(ValueError):
    """An output that cannot be used; the message says what would work."""


def _write_jsonl(records: Iterable[Record], file: Path, columns: Sequence[str]) -> None:
    with file.open("wb") as handle:
        handle.writelines(encode({name: record[name] for name in COLUMNS if name in record}) for record in records)


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

    kinds = {name: pyarrow.list_(getattr(pyarrow, LISTS[name].replace("double", "float64"))()) for name in LISTS}
    kinds |= dict.fromkeys(NUMBERS, pyarrow.float64())
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
            values = {name: json.loads(value) if name in LISTS and value else value for name, value in row.items()}
            values |= {name: float(values[name]) for name in NUMBERS if values.get(name)}
            yield {name: value for name, value in values.items() if value != "" or name == "caption"}


def _read_parquet(file: Path) -> Iterator[Record]:
    from pyarrow.parquet import ParquetFile

    for batch in ParquetFile(file).iter_batches():
        for row in batch.to_pylist():
            yield {name: value for name, value in row.items() if value is not None}


WRITERS: dict[str, Callable[[Iterable[Record], Path, Sequence[str]], None]] = {
    ".jsonl": _write_jsonl,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def check_format(output: Path, option: str) -> None:
    """Refuse a format that is not written.

    Raises:
        OutputError: it is none of `WRITERS`.
    """
    if output.suffix.lower() not in WRITERS:
        raise OutputError(f"`{option}` must end in {', '.join(WRITERS)}, but is {str(output)!r}")


def write_records(records: Iterable[Record], output: Path, columns: Sequence[str] = COLUMNS) -> None:
    """Write records in the format of the output's suffix; the file is replaced once the new one is whole.

    Raises:
        WriteError: disk full, no permission, …; what was there before is still there.
    """
    with explaining(output), replacing(output) as unfinished:
        WRITERS[output.suffix.lower()](records, unfinished, columns)


def read_records(output: Path) -> Iterator[Record]:
    """The records of a file that `write_records` wrote.

    Raises:
        OutputError: it holds something else.
    """
    try:
        for record in READERS[output.suffix.lower()](output):
            if not isinstance(record, dict) or "image" not in record or not {"caption", "error"} & set(record):
                raise ValueError("a record must have `image`, and `caption` or `error`")
            record = {name: record[name] for name in COLUMNS if name in record}
            yield {k: v for k, v in record.items() if k != "caption"} if "error" in record else record
    except (ValueError, OSError, csv.Error) as error:
        remedy = "name another file, or give `--existing overwrite`"
        raise OutputError(f"{output} is there, but not as captions ({error}); {remedy}") from error


JOINED: dict[str, Callable[[str, str], str]] = {
    "skip": lambda old, new: new,
    "overwrite": lambda old, new: new,
    "append": lambda old, new: f"{old}, {new}",
    "prepend": lambda old, new: f"{new}, {old}",
    "fail": lambda old, new: new,
}


@dataclass(frozen=True)
class Sidecars:
    """Text files beside the images: `photo.txt` for `photo.jpg`, UTF-8, a line per caption, no newline at the end.

    Args:
        extension: with its dot.
        existing: what happens to a text that is there: a key of `JOINED`.
    """

    extension: str
    existing: str = "skip"

    def path(self, file: str) -> Path:
        """Where the text of an image file goes."""
        return Path(os.path.splitext(file)[0] + self.extension)

    def compose(self, path: Path, captions: Sequence[str]) -> str:
        """What the file shall hold: the captions, and what it holds now where that is to be kept."""
        text = "\n".join(captions)
        try:
            old = path.read_text(encoding="utf-8", errors="surrogateescape").strip()
        except FileNotFoundError:
            old = ""
        except OSError as error:
            raise WriteError(f"cannot read {path}: {error.strerror}") from error
        return JOINED[self.existing](old, text) if old else text

    def write(self, path: Path, text: str) -> None:
        """Put a text in place, whole or not at all.

        Raises:
            WriteError: it could not be written.
        """
        with explaining(path), replacing(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8", errors="surrogateescape")
