"""Tables and JSON entries to rows, by the columns that the settings name.

Knows nothing about where a table was found.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..base import DataSettings, some
from .annotations import root_of
from .faults import DataError
from .rows import Cells, Rows, embedded_rows, file_rows, holds_paths, told_apart, with_modalities

USUAL_COLUMNS = {
    "image_column": (
        "image",
        "images",
        "file_name",
        "filename",
        "image_path",
        "image_name",
        "path",
        "jpg",
        "jpeg",
        "png",
        "webp",
    ),
    "caption_column": ("captions", "caption", "text", "comment", "txt", "json.captions", "json.caption"),
}


def column_named(columns: Collection[str], settings: DataSettings, setting: str) -> str:
    """The column that a setting names; where it has its default, any usual name will do.

    Raises:
        DataError: there is none.
    """
    wanted = getattr(settings, setting)
    usual = USUAL_COLUMNS.get(setting, ())
    names = [name for name in (wanted, *(usual if wanted in usual[:1] else ())) if name in columns]
    if not names:
        remedy = f"set `data.{setting}` to one of them"
        raise DataError(f"{settings.path} has no column {wanted!r} but {some(columns, 20)}; {remedy}")
    return names[0]


def text_cells(columns: Mapping[str, Any], settings: DataSettings, captions: str, ids: str | None = None) -> Cells:
    """The text columns: captions and ids by the names given here, context and id by the settings."""
    contexts = None
    if settings.context_column is not None:
        contexts = columns[column_named(columns, settings, "context_column")][:]
    if settings.id_column is not None:
        ids = column_named(columns, settings, "id_column")
    return Cells(columns[captions][:], contexts, None if ids is None else columns[ids][:])


def table_rows(table: Dataset, settings: DataSettings, roots: Sequence[Path], origin: Any, split: str) -> Rows:
    """Rows of a table whose columns the settings name; its images are paths, encoded in the table, or none.

    Args:
        roots: that its paths may be relative to.
        origin: of the rows; see `Rows`.
        split: whose folder is taken where several have files of these names.
    """
    columns = {name: table[name] for name in table.column_names}
    cells = text_cells(columns, settings, column_named(columns, settings, "caption_column"))
    image = None if settings.image_column is None else column_named(columns, settings, "image_column")
    if image is None:
        rows = replace(file_rows(roots, [None] * len(table), cells, origin), blank=frozenset())
    elif holds_paths(table.features[image]):
        rows = file_rows(roots, table[image][:], cells, origin, split)
    else:
        images = table.select_columns(image)
        embedded = embedded_rows(images if image == "image" else images.rename_column(image, "image"), cells)
        rows = told_apart(replace(embedded, origin=str(origin)))
    if 0 < len(table) == len(rows.blank):
        remedy = "set `data.image_column` to another one, or to null for texts alone"
        raise DataError(f"the column {image!r} of {settings.path} holds no image at all; {remedy}")
    return with_modalities(rows, columns, settings, roots, split)


def entry_rows(entries: Sequence[dict[str, Any]], settings: DataSettings, ids: str, origin: Any, split: str) -> Rows:
    """Rows of JSON entries with `image` and `captions`; the settings may name keys for context and id.

    Args:
        origin, split: as in `table_rows`.
    """
    known = {name: None for entry in entries for name in entry}
    columns = {name: [entry.get(name) for entry in entries] for name in known or ("image", "captions", ids)}
    roots = [root_of(settings)]
    rows = file_rows(roots, columns["image"], text_cells(columns, settings, "captions", ids), origin, split)
    return with_modalities(rows, columns, settings, roots, split)
