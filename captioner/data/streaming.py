"""A split that is never whole in memory or on disk: read shard by shard, in the order of the source.

Knows nothing about the order of training or tensors.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ..base import DataSettings, SettingsError
from ..model import each
from .cells import captions_in, context_in
from .columns import column_named, table_rows
from .dataset import Sample
from .faults import CUT_ARCHIVE, DUPLICATE, Bad, DataError
from .grouping import ranges
from .groups import empty
from .identity import UNKNOWN, Identity
from .repositories import located
from .rows import Rows, check_modality_column, full_path, holds_paths
from .shards import Piece, Shards
from .split_names import choose_split

MOST_TEXTS = 100_000  # samples that a tokenizer is trained on


class Stream:
    """One split as samples of the data schema, one for each row, in the order of the source.

    Args:
        shards: of the split.
        pieces: what of it is read.
        settings: name its columns.
        root: folder of paths.
        origin: of the rows; see `Rows`.
    """

    def __init__(self, shards: Shards, pieces: Sequence[Piece], settings: DataSettings, root: Path, origin: str = ""):
        self.shards, self.pieces, self.root, self.origin = shards, list(pieces), root, origin
        names = list(shards.features)
        self.columns = {"captions": column_named(names, settings, "caption_column")}
        for key in ("image", "context", "id"):
            if getattr(settings, f"{key}_column") is not None:
                self.columns[key] = column_named(names, settings, f"{key}_column")
        for name in settings.modality_columns:
            check_modality_column(name, names, settings)
        self.columns |= settings.modality_columns
        self.paths = "image" in self.columns and holds_paths(shards.features[self.columns["image"]])
        self.feature_paths = [
            name for name, column in settings.modality_columns.items() if holds_paths(shards.features[column])
        ]
        self.bad = [Bad(DUPLICATE, name, "several rows have it", left_out=False) for name in shards.duplicates]
        self.bad += [Bad(CUT_ARCHIVE, os.path.basename(file), why) for file, why in shards.faults.items()]

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
            sample["image"] = each(lambda file: full_path(self.root, file), sample["image"])
        for key in self.feature_paths:
            sample[key] = sample[key] and full_path(self.root, sample[key])
        if blank or not sample["captions"]:
            sample["bad"] = [empty(sample["id"], sample["captions"])]
        return {"image": None, **sample, "index": number}

    @property
    def identity(self) -> Identity:
        """What tells these samples from those of another split: their rows."""
        places = np.concatenate([np.arange(piece.number, piece.number + piece.count) for piece in self.pieces])
        return Identity(self.origin, places, np.full(len(places), UNKNOWN))

    @cached_property
    def texts(self) -> list[dict[str, Any]]:
        """`captions` and `context` of the first `MOST_TEXTS` samples; no image is read for it."""
        columns = {key: self.columns[key] for key in ("captions", "context") if key in self.columns}
        rows, first, found = self.shards.texts(list(columns.values())), 0, []
        for piece in sorted(self.pieces, key=lambda piece: piece.number):
            start = max(piece.number - first, 0)
            found += islice(rows, start, max(piece.number + piece.count - first, start))
            first = max(piece.number + piece.count, first)
            if len(found) >= MOST_TEXTS:
                break
        return [
            {
                "captions": captions_in(row[columns["captions"]])[0],
                "context": context_in(row.get(columns.get("context"))),
            }
            for row in found[:MOST_TEXTS]
        ]


def open_stream(settings: DataSettings, split: str) -> Stream:
    """Find the shards of a split, or of a slice of one such as "train[1000:]".

    Raises:
        SettingsError: settings that need all samples at once.
        DataError: no such data, or data of another kind.
    """
    for key in ("retrieve", "feature_store", "hold_out"):
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
    stream = Stream(shards, list(_first(pieces, settings.limit)), settings, root, f"{path} {shards.name}")
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
    numbered = [pair for piece in stream.pieces for pair in stream.shards.read(piece)]
    table = Dataset.from_list([row for _, row in numbered], features=stream.shards.features)
    rows = table_rows(table, settings, [stream.root], stream.origin, split)
    return replace(rows, places=[number for number, _ in numbered])
