"""A split that is never whole in memory or on disk: read shard by shard, in the order of the source.

Knows nothing about the order of training or tensors.
"""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..base import DataSettings, SettingsError
from ..model import each
from .annotations import choose_split
from .columns import column_named, table_rows
from .dataset import Sample
from .faults import DUPLICATE, Bad
from .grouping import captions_in, context_in, empty, ranges
from .repositories import located
from .rows import DataError, Rows, holds_paths
from .shards import Piece, Shards

MOST_TEXTS = 100_000  # samples that a tokenizer is trained on


class Stream:
    """One split as samples of the data schema, one for each row, in the order of the source.

    Args:
        shards: of the split.
        pieces: what of it is read.
        settings: name its columns.
        root: folder of image paths.
    """

    def __init__(self, shards: Shards, pieces: Sequence[Piece], settings: DataSettings, root: Path):
        self.shards, self.pieces, self.root = shards, list(pieces), root
        names = list(shards.features)
        self.columns = {"captions": column_named(names, settings, "caption_column")}
        for key in ("image", "context", "id"):
            if getattr(settings, f"{key}_column") is not None:
                self.columns[key] = column_named(names, settings, f"{key}_column")
        self.columns |= {name: column for name, column in settings.modality_columns.items() if column in names}
        self.paths = "image" in self.columns and holds_paths(shards.features[self.columns["image"]])
        self.bad = [Bad(DUPLICATE, name, "several rows have it", left_out=False) for name in shards.duplicates]

    def __len__(self) -> int:
        return sum(piece.count for piece in self.pieces)

    def read(self, piece: Piece, skipped: int = 0) -> Iterator[Sample]:
        """The samples of a piece after the first `skipped`, each with its `index` and, if it has faults, `bad`."""
        for number, row in self.shards.read(piece, skipped):
            yield self._sample(number, row)

    def _sample(self, number: int, row: dict[str, Any]) -> Sample:
        sample = {name: row[column] for name, column in self.columns.items()}
        name = sample.get("id")
        sample["id"] = str(row.get("__key__") or number) if name in (None, "") else str(name)
        sample["captions"], blank = captions_in(sample["captions"])
        sample["context"] = context_in(sample.get("context"))
        if self.paths:
            sample["image"] = each(lambda file: os.path.join(self.root, file), sample["image"])
        if blank or not sample["captions"]:
            sample["bad"] = [empty(sample["id"], sample["captions"])]
        return {"image": None, **sample, "index": number}

    @cached_property
    def texts(self) -> list[dict[str, Any]]:
        """`captions` and `context` of the first `MOST_TEXTS` samples."""
        samples = (sample for piece in self.pieces for sample in self.read(piece))
        return [{key: sample[key] for key in ("captions", "context")} for sample in islice(samples, MOST_TEXTS)]


def open_stream(settings: DataSettings, split: str) -> Stream:
    """Find the shards of a split, or of a slice of one such as "train[1000:]".

    Raises:
        SettingsError: settings that need all samples at once.
        DataError: no such data, or data of another kind.
    """
    for key in ("retrieve", "feature_store"):
        if getattr(settings, key) is not None:
            raise SettingsError(
                f"`data.{key}` looks at every image before training, so it needs `data.streaming=false`"
            )
    if settings.source != "datasets":
        raise SettingsError(
            f"`data.streaming` needs `data.source=datasets`, but it is {settings.source}; write your data as Parquet "
            "files or WebDataset tars"
        )
    name = split.partition("[")[0]
    with located(settings) as (path, root):
        shards = Shards.open(path, partial(choose_split, name, where=path), settings)
    parts = ranges(split, name, sum(shards.counts))
    pieces = [piece for part in parts for piece in shards.pieces(part.start, part.stop)]
    stream = Stream(shards, list(_first(pieces, settings.limit)), settings, root)
    if not len(stream):
        raise DataError(f"split {split!r} of {settings.path} is empty: it takes none of {sum(shards.counts)} rows")
    return stream


def _first(pieces: Sequence[Piece], limit: int | None) -> Iterator[Piece]:
    left = sum(piece.count for piece in pieces) if limit is None else limit
    for piece in pieces:
        if left > 0:
            yield piece._replace(count=min(piece.count, left))
            left -= piece.count


def read_once(settings: DataSettings, split: str) -> Rows:
    """A split or a slice of one, for validation: read from the stream into memory."""
    stream = open_stream(settings, split)
    rows = [row for piece in stream.pieces for _, row in stream.shards.read(piece)]
    return table_rows(Dataset.from_list(rows, features=stream.shards.features), settings, [stream.root])
