"""Data sets that `datasets` reads: a folder of Parquet files, images or tars, a saved data set, a Hub repository.

A folder of photos with texts beside them, which `datasets` would take for texts, is handed on to `sidecars.py`.

Knows nothing about what their columns mean.
"""

import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet
from datasets import Dataset, load_from_disk
from datasets.exceptions import DatasetsError

from ..base import DataSettings, SettingsError, TextError, one_line, parse_json, read_text
from .annotations import beside, root_of
from .columns import table_rows
from .faults import CUT_ARCHIVE, Bad, DataError
from .rows import Rows
from .sidecars import holds_sidecars, read_sidecars
from .split_names import choose_split
from .tars import Tars, builder_of, keys_in

logger = logging.getLogger(__name__)

SAVED = {"dataset_dict.json": "splits", "state.json": "_data_files"}  # file of a saved dataset → a list in it


@contextmanager
def located(settings: DataSettings) -> Iterator[tuple[str, Path]]:
    """`path` as a folder or as the name of a Hub repository, and the folder of its images; for work with it.

    Raises:
        DataError: in place of what `datasets` raises meanwhile.
    """
    path = settings.path or ""
    remote = not Path(path).expanduser().exists() and re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", path)
    root = Path(path) if remote else root_of(settings)
    if root.is_file():
        raise DataError(f"`data.path` {path} is a file; set `data.source` to table, or `data.path` to a folder")
    try:
        yield str(root), Path() if remote else root
    except (DataError, SettingsError):
        raise
    except Exception as error:  # `datasets` and what it stands on raise many kinds
        place = f"is neither here ({beside(root)}) nor a usable Hub repository" if remote else "does not load"
        why = None if remote else _broken_file(root)
        raise DataError(f"`data.path` {path} {place}: {why or one_line(error)}") from error


def _broken_file(folder: Path) -> str | None:
    """The first file of a folder that cannot be read for what it is called."""
    for file in sorted(
        file for kind in ("csv", "tsv", "json", "jsonl", "parquet") for file in folder.rglob(f"*.{kind}")
    ):
        try:
            if file.suffix == ".parquet":
                pyarrow.parquet.read_metadata(file)
            else:
                file.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            return f"{file} is not UTF-8; save it as UTF-8, or read it with `data.source` table"
        except (OSError, pyarrow.ArrowException) as error:
            return f"{file} cannot be read: {one_line(error)}; copy it again"
    return None


def read_repository(settings: DataSettings, split: str) -> Rows:
    """`path`: a folder with Parquet files or images, what `save_to_disk` wrote, or a Hub repository."""
    with located(settings) as (path, root):
        if Path(path).is_dir() and not is_saved_dataset(path) and holds_sidecars(Path(path)):
            return read_sidecars(settings, split)
        found = _read(path, split)
    rows = table_rows(found.table, settings, [root], f"{path} {found.name}", split)
    return replace(rows, notes=found.notes)


def is_saved_dataset(path: str) -> bool:
    """Whether `datasets` wrote a folder, by the files that say so; other programs have files of these names too."""
    return any(_says(Path(path, name), key) for name, key in SAVED.items())


def _says(file: Path, key: str) -> bool:
    try:
        told = parse_json(read_text(file), file.name)
    except (OSError, TextError):
        return False
    return isinstance(told, dict) and isinstance(told.get(key), list)


def load_repository(path: str, split: str) -> Dataset:
    """One split of a saved dataset, of a folder that datasets reads, or of a Hub repository.

    What is inside a column there becomes a column: `json` that holds `title`, the column `json.title`.

    Raises:
        DataError: no such split.
        ValueError, OSError, DatasetsError: there is nothing to read, or it cannot be read.
    """
    found = _read(path, split)
    for bad in found.notes:
        logger.warning("%s: %s", bad.id, bad.why)
    return found.table


class Found(NamedTuple):
    """A split, the name that stands for it there, and what is wrong with its files."""

    table: Dataset
    name: str
    notes: list[Bad]


def _read(path: str, split: str) -> Found:
    try:
        if is_saved_dataset(path):
            saved = load_from_disk(path)
            splits = {"train": saved} if isinstance(saved, Dataset) else saved
            name = choose_split(split, splits, path)
            return Found(splits[name], name, [])
        builder = builder_of(path)
        builder.download_and_prepare()
        name = split if split == "all" else choose_split(split, builder.info.splits, path)
        files = [file for own, files in builder.config.data_files.items() if name in (own, "all") for file in files]
        notes = list(_cut(files)) if isinstance(builder, Tars) else []
        return Found(builder.as_dataset(name).flatten(), name, notes)
    except (ValueError, OSError, DatasetsError):
        raise
    except Exception as error:  # of what `datasets` stands on
        raise ValueError(f"{type(error).__name__}: {one_line(error)}") from error


def _cut(files: Iterable[str]) -> Iterator[Bad]:
    """The tars on this machine that miss their end."""
    for file in filter(os.path.isfile, files):
        with open(file, "rb") as opened:
            fault = keys_in(opened)[1]
        if fault:
            yield Bad(CUT_ARCHIVE, os.path.basename(file), fault)
