"""Parquet files and WebDataset tars as shards of known length, opened by `datasets` here or on the Hub.

Knows where every row lies without reading it; knows nothing about samples, epochs or processes.
"""

import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Features, Image, IterableDataset, List
from datasets.packaged_modules.webdataset.webdataset import base_plus_ext

from ..base import DataSettings
from .rows import DataError
from .tars import builder_of

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
    ids: pa.Array | None  # where they are cheap to read


def _parquet_shards(file: Any, id_column: str | None) -> FileShards:
    """A shard per row group, as `IterableDataset.reshard` cuts them."""
    parquet = pq.ParquetFile(file)
    known = id_column in parquet.schema_arrow.names
    ids = parquet.read(columns=[id_column])[id_column].cast(pa.string()).combine_chunks() if known else None
    groups = parquet.metadata
    return FileShards([groups.row_group(group).num_rows for group in range(groups.num_row_groups)], ids)


def _tar_shards(file: Any, id_column: str | None) -> FileShards:
    """One shard; files of a sample lie together and share their name up to its first dot."""
    keys: list[str] = []
    with tarfile.open(fileobj=file) as archive:
        for member in archive:
            key = base_plus_ext(member.name)[0] if member.isfile() else None
            if key is not None and keys[-1:] != [key]:
                keys.append(key)
    return FileShards([len(keys)], pa.array(keys, pa.string()) if id_column == "__key__" else None)


SHARD_FORMATS: dict[str, Callable[[Any, str | None], FileShards]] = {
    "parquet": _parquet_shards,
    "tars": _tar_shards,
}  # by the names of their builders


@dataclass
class Shards:
    """One split that is read shard by shard.

    Args:
        rows: as `datasets` streams them, images not decoded.
        counts: rows of each shard.
        duplicates: ids that more than one row has, where ids were cheap to read.
    """

    rows: IterableDataset
    counts: list[int]
    duplicates: list[str]

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
        found = []
        for file in files[name]:
            with fsspec.open(file, "rb") as opened:
                found.append(SHARD_FORMATS[builder.name](opened, settings.id_column))
        counts = [count for own in found for count in own.counts]
        rows = _encoded(builder.as_streaming_dataset(name).reshard())
        if rows.num_shards != len(counts):
            raise DataError(f"{path} has {len(counts)} shards, but datasets finds {rows.num_shards}; upgrade datasets")
        return cls(rows, counts, _duplicates([own.ids for own in found if own.ids is not None]))

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
