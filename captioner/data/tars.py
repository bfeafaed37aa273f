"""WebDataset tars as `datasets` reads them, but for what cannot be decoded: that is None and costs only its own row.

Chooses the builder of a dataset; knows no columns and no samples.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from datasets import DatasetBuilder, load_dataset_builder
from datasets.packaged_modules.webdataset.webdataset import WebDataset


def _decoded(decode: Callable[[Any], Any], content: Any) -> Any:
    try:
        return decode(content)
    except Exception:  # of any kind: a decoder for each ending of a file, and any bytes in it
        return None


class Tars(WebDataset):
    """A tar's rows, whatever is in their files."""

    DECODERS: ClassVar = {ending: partial(_decoded, decode) for ending, decode in WebDataset.DECODERS.items()}


def builder_of(path: str) -> DatasetBuilder:
    """What reads a folder, or a repository of the Hub.

    Raises:
        ValueError, OSError, DatasetsError: what `datasets` raises where it finds nothing to read.
    """
    found = load_dataset_builder(path)
    if not isinstance(found, WebDataset):
        return found
    return Tars(dataset_name=found.dataset_name, data_files=found.config.data_files, hash=found.hash)
