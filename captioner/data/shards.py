"""Parquet files and WebDataset tars as shards of known length, opened by `datasets` here or on the Hub.

Knows where every row lies without reading it; knows nothing about samples, epochs or processes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Features, Image, IterableDataset, List

from ..base import DataSettings, one_line
from .faults import DataError
from .tars import builder_of, keys_in, rows_in

READ_AHEAD = 16  # rows of a shard at once


class Piece(NamedTuple):
    """Rows of one shard that lie together."""

    shard: int
    first: int  # in the shard
    count: int
    number: int  # of the first, counted over all shards


class FileShards(NamedTuple):
    """What a file says about its rows without their images."""

    counts: list[int]  # per shard of the file
    ids: pa.Array | None = None  # where they are cheap to read
    fault: str | None = None  # why rows may be missing


class ShardFormat(Protocol):
    """How files of one kind are read without `datasets`."""

    @staticmethod
    def shards(file: Any, id_column: str | None) -> FileShards:
        """The shards of an opened file."""

    @staticmethod
    def texts(file: Any, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Its rows in some columns that hold no images; what is inside a column is not flat."""


class Parquet:
    """A shard per row group, as `IterableDataset.reshard` cuts them."""

    @staticmethod
    def shards(file: Any, id_column: str | None) -> FileShards:
        """As in `ShardFormat`."""
        parquet = pq.ParquetFile(file)
        known = id_column in parquet.schema_arrow.names
        ids = parquet.read(columns=[id_column])[id_column].cast(pa.string()).combine_chunks() if known else None
        groups = parquet.metadata
        return FileShards([groups.row_group(group).num_rows for group in range(groups.num_row_groups)], ids)

    @staticmethod
    def texts(file: Any, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """As in `ShardFormat`."""
        for batch in pq.ParquetFile(file).iter_batches(columns=list(columns)):
            yield from batch.to_pylist()


class TarShards:
    """A shard per tar."""

    @staticmethod
    def shards(file: Any, id_column: str | None) -> FileShards:
        """As in `ShardFormat`."""
        keys, fault = keys_in(file)
        return FileShards([len(keys)], pa.array(keys, pa.string()) if id_column == "__key__" else None, fault)

    @staticmethod
    def texts(file: Any, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """As in `ShardFormat`."""
        return rows_in(file, columns)


SHARD_FORMATS: dict[str, type[ShardFormat]] = {"parquet": Parquet, "tars": TarShards}  # by the names of their builders


@dataclass
class Shards:
    """One split that is read shard by shard.

    Args:
        rows: as `datasets` streams them, images not decoded.
        counts: rows of each shard.
        duplicates: ids that more than one row has, where ids were cheap to read.
        name: of the split.
        files: of the split.
        format: of the files.
        faults: file → why rows of it may be missing.
    """

    rows: IterableDataset
    counts: list[int]
    duplicates: list[str]
    name: str
    files: Sequence[str]
    format: type[ShardFormat]
    faults: dict[str, str]

    @property
    def features(self) -> Features:
        """Column → what it holds; a column `json` that holds `title` is the column `json.title`."""
        return Features(dict(_flat(self.rows.features, self.rows.features)))

    @classmethod
    def open(cls, path: str, split: Callable[[Sequence[str]], str], settings: DataSettings) -> "Shards":
        """Find the files of a split; each is opened once, for the number of its rows.

        Args:
            path: of a folder, or the name of a Hub repository.
            split: chooses among the names of splits.

        Raises:
            DataError: files of another kind.
        """
        builder = builder_of(path)
        if builder.name not in SHARD_FORMATS:
            raise DataError(
                f"`data.streaming` reads Parquet files and WebDataset tars, but {path} holds {builder.name}; convert "
                "it, or set `data.streaming` to false"
            )
        files = builder.config.data_files
        name = split(list(files))
        form, found = SHARD_FORMATS[builder.name], {}
        for file in files[name]:
            with fsspec.open(file, "rb") as opened:
                try:
                    found[file] = form.shards(opened, settings.id_column)
                except pa.ArrowException as error:
                    raise DataError(f"{file} cannot be read: {one_line(error)}; copy it again") from error
        counts = [count for own in found.values() for count in own.counts]
        rows = _encoded(builder.as_streaming_dataset(name).reshard())
        if rows.num_shards != len(counts):
            raise DataError(f"{path} has {len(counts)} shards, but datasets finds {rows.num_shards}; upgrade datasets")
        duplicates = _duplicates([own.ids for own in found.values() if own.ids is not None])
        faults = {file: own.fault for file, own in found.items() if own.fault}
        return cls(rows, counts, duplicates, name, list(found), form, faults)

    def pieces(self, start: int, stop: int) -> Iterator[Piece]:
        """The rows from `start` to `stop` of the split, shard by shard."""
        number = 0
        for shard, count in enumerate(self.counts):
            first, last = max(start - number, 0), min(stop - number, count)
            if first < last:
                yield Piece(shard, first, last - first, number + first)
            number += count

    def read(self, piece: Piece, skipped: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """Rows of a piece with their numbers, after the first `skipped`; the same in every worker of a loader."""
        rows = (
            self.rows.shard(self.rows.num_shards, piece.shard).skip(piece.first + skipped).take(piece.count - skipped)
        )
        number = piece.number + skipped
        for batch in rows.iter(READ_AHEAD):  # plain iteration would deal rows to workers once more
            for values in zip(*batch.values(), strict=True):
                yield number, dict(_flat(dict(zip(batch, values, strict=True)), self.rows.features))
                number += 1

    def texts(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """All rows in some columns, as `read` names them, in order; no image is read."""
        outer = [
            name for name in self.rows.features if any(own == name or own.startswith(f"{name}.") for own in columns)
        ]
        features = Features({name: self.rows.features[name] for name in outer})
        for file in self.files:
            with fsspec.open(file, "rb") as opened:
                for row in self.format.texts(opened, outer):
                    yield dict(_flat({name: row.get(name) for name in outer}, features))


def _encoded(rows: IterableDataset) -> IterableDataset:
    """The same rows with images as they are in the file."""
    for name, kind in rows.features.items():
        if isinstance(kind, Image):
            rows = rows.cast_column(name, Image(decode=False))
        elif isinstance(kind, List) and isinstance(kind.feature, Image):
            rows = rows.cast_column(name, List(Image(decode=False)))
    return rows


def _flat(row: dict[str, Any], features: Features) -> Iterator[tuple[str, Any]]:
    """Name and value of each cell; what is inside a column gets a name with a dot."""
    for name, value in row.items():
        if isinstance(features[name], dict):
            yield from ((f"{name}.{key}", (value or {}).get(key)) for key in features[name])
        else:
            yield name, value


def _duplicates(ids: list[pa.Array]) -> list[str]:
    if not ids:
        return []
    counted = pc.value_counts(pa.chunked_array(ids))
    return [str(pair["values"]) for pair in counted.filter(pc.greater(counted.field("counts"), 1)).to_pylist()]
