"""Data sets that `datasets` reads: a folder of Parquet files, images or tars, a saved data set, a Hub repository.

Knows nothing about what their columns mean.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets import Dataset, load_from_disk
from datasets.exceptions import DatasetsError

from ..base import DataSettings, one_line
from .annotations import beside, choose_split, root_of
from .columns import table_rows
from .rows import DataError, Rows
from .tars import builder_of


@contextmanager
def located(settings: DataSettings) -> Iterator[tuple[str, Path]]:
    """`path` as a folder or as the name of a Hub repository, and the folder of its images; for work with it.

    Raises:
        DataError: in place of what `datasets` raises meanwhile.
    """
    path = settings.path or ""
    remote = not Path(path).expanduser().exists() and re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", path)
    root = Path(path) if remote else root_of(settings)
    try:
        yield str(root), Path() if remote else root
    except DataError:
        raise
    except (ValueError, OSError, DatasetsError) as error:
        place = f"is neither here ({beside(root)}) nor a usable Hub repository" if remote else "does not load"
        raise DataError(f"`data.path` {path} {place}: {one_line(error)}") from error


def read_repository(settings: DataSettings, split: str) -> Rows:
    """`path`: a folder with Parquet files or images, what `save_to_disk` wrote, or a Hub repository."""
    with located(settings) as (path, root):
        table = load_repository(path, split)
    return table_rows(table, settings, [root])


def load_repository(path: str, split: str) -> Dataset:
    """One split of a saved dataset, of a folder that datasets reads, or of a Hub repository.

    What is inside a column there becomes a column: `json` that holds `title`, the column `json.title`.

    Raises:
        DataError: no such split.
        ValueError, OSError, DatasetsError: what `datasets` raises where it finds nothing to read.
    """
    if any(Path(path, name).is_file() for name in ("dataset_dict.json", "state.json")):
        saved = load_from_disk(path)
        splits = {"train": saved} if isinstance(saved, Dataset) else saved
        return splits[choose_split(split, splits, path)]
    builder = builder_of(path)
    builder.download_and_prepare()
    return builder.as_dataset(split if split == "all" else choose_split(split, builder.info.splits, path)).flatten()
