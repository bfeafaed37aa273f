"""WebDataset tars as `datasets` reads them, but for what people's tars are like, which costs no more than its own row.

A sample has one image whatever its suffix, and may lack a file; what cannot be decoded is None; a name may have dots
before its suffix; a tar may be cut. Chooses the builder of a dataset; knows no columns and no samples.
"""

import hashlib
import os
import tarfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import pyarrow
from datasets import Audio, DatasetBuilder, Features, Image, Video, load_dataset_builder
from datasets.data_files import DataFilesDict, get_data_patterns
from datasets.features.features import cast_to_python_objects
from datasets.filesystems import EXTENSION_TO_COMPRESSION_FS_FILE_CLS
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from datasets.packaged_modules.webdataset.webdataset import WebDataset

from ..base import decoded, parse_json

SAMPLES_LOOKED_AT = 20  # samples of a tar from which its columns are known
IMAGES = frozenset(WebDataset.IMAGE_EXTENSIONS)
TYPES = {
    Image: IMAGES,
    Audio: frozenset(WebDataset.AUDIO_EXTENSIONS),
    Video: frozenset(WebDataset.VIDEO_EXTENSIONS),
}  # of columns, by the suffixes of their files

JSON = ("json", "jsn")
PLAIN_TEXTS = (*JSON, "txt", "text", "transcript")

T = TypeVar("T")


def samples_in(files: Iterable[tuple[str, T]]) -> Iterator[tuple[str, dict[str, T]]]:
    """The files of a tar, in order, as samples: the key of each, and its files by their suffixes.

    Files of a sample lie together and share their name up to its first dot; what follows is the suffix, in small
    letters. Where all of them share more ("a.b.jpg" and "a.b.txt"), that is of the name, and a text may carry the
    image's suffix in its own ("a.jpg.txt"). A file that comes again begins a new sample.

    Args:
        files: names, and whatever goes with them, of those that are whole: a `tarfile.TarError` ends them where the
            tar is cut.
    """
    key, run = "", []
    try:
        for name, content in files:
            folder, _, base = name.rpartition("/")
            stem, dot, suffix = base.partition(".")
            if not stem or not dot or not suffix or base.startswith("__"):
                continue
            own = f"{folder}/{stem}" if folder else stem
            if own != key and run:
                yield from _parted(key, run)
                run = []
            key = own
            run.append((suffix.lower(), content))
    except (tarfile.TarError, EOFError):
        pass
    yield from _parted(key, run)


def _parted(key: str, run: list[tuple[str, T]]) -> Iterator[tuple[str, dict[str, T]]]:
    """The samples among files that share their name up to its first dot."""
    sample: dict[str, T] = {}
    own = key
    for extra, suffix, content in _split_suffixes([name for name, _ in run], [content for _, content in run]):
        name = f"{key}.{extra}" if extra else key
        if sample and (name != own or suffix in sample):
            yield own, sample
            sample = {}
        own, sample[suffix] = name, content
    if sample:
        yield own, sample


def _split_suffixes(names: list[str], contents: list[T]) -> Iterator[tuple[str, str, T]]:
    """What of each suffix belongs to the name, the suffix, and the content."""
    parts = [name.rpartition(".")[::2] for name in names]
    parts = [("", last) if first in IMAGES and last not in IMAGES else (first, last) for first, last in parts]
    extras = [first for first, _ in parts]
    of_names = all(extra and extras.count(extra) > 1 for extra in extras)
    for (extra, last), content in zip(parts, contents, strict=True):
        if of_names or not extra:
            yield extra if of_names else "", last, content
        else:
            yield "", f"{extra}.{last}", content


def keys_in(file: BinaryIO) -> tuple[list[str], str | None]:
    """The keys of a tar's samples, from the headers of its files alone; and why some may be missing, if that is so."""
    cut: list[str] = []
    try:
        with tarfile.open(fileobj=file) as archive:
            keys = [key for key, _ in samples_in((member.name, None) for member in _whole_members(archive, cut))]
            if cut:
                return keys, f"it ends in the middle of {cut[0]}; copy it again"
            archive.fileobj.seek(archive.offset)
            closed = archive.fileobj.read(tarfile.BLOCKSIZE) == tarfile.NUL * tarfile.BLOCKSIZE
            return keys, None if closed else "it ends without a tar's last block; copy it again if files are missing"
    except (tarfile.TarError, EOFError) as error:
        return [], f"it is no tar: {str(error).partition(chr(10))[0].rstrip(':')}"


def _whole_members(archive: tarfile.TarFile, cut: list[str]) -> Iterator[tarfile.TarInfo]:
    """The files of a tar whose bytes are all there; `cut` takes the name of one whose are not."""
    last = None
    try:
        for member in archive:
            if last is not None:
                yield last
            last = member if member.isreg() else None
    except (tarfile.TarError, EOFError):
        archive.fileobj.seek(0, os.SEEK_END)
        if last is not None and last.offset_data + last.size > archive.fileobj.tell():
            cut.append(last.name)
            last = None
    if last is not None:
        yield last


def _decoded(suffix: str, content: bytes) -> Any:
    """What a file of a sample holds; None where it cannot be decoded."""
    name, _, packing = suffix.rpartition(".")
    try:
        if f".{packing}" in EXTENSION_TO_COMPRESSION_FS_FILE_CLS:
            with EXTENSION_TO_COMPRESSION_FS_FILE_CLS[f".{packing}"](BytesIO(content), mode="rb") as unpacked:
                content, packing = unpacked.read(), name.rpartition(".")[2]
        if packing in PLAIN_TEXTS:
            text = decoded(content, suffix)
            return parse_json(text, suffix) if packing in JSON else text
        return WebDataset.DECODERS.get(packing, bytes)(content)
    except Exception:  # of any kind: a decoder for each ending of a file, and any bytes in it
        return None


def rows_in(file: BinaryIO, suffixes: Collection[str]) -> Iterator[dict[str, Any]]:
    """The rows of a tar in some of its columns; files of others are passed over. What is no tar has none."""
    with suppress(tarfile.TarError, EOFError), tarfile.open(fileobj=file) as archive:
        members = ((member.name, member) for member in _whole_members(archive, []))
        for key, files in samples_in(members):
            own = {name: archive.extractfile(member).read() for name, member in files.items() if name in suffixes}
            yield {name: _decoded(name, content) for name, content in own.items()} | {"__key__": key}


class Tars(WebDataset):
    """Rows of tars, whatever is in their files: columns `__key__`, `__url__`, and one for each suffix.

    Where no sample has two images, all of them are in one column, that of the first.
    """

    def _split_generators(self, dl_manager: Any) -> list[Any]:
        if not self.info.features and self.config.data_files:
            splits = dl_manager.download(self.config.data_files).values()
            self.info.features = _features([row for files in splits for row in self._first_rows(files, dl_manager)])
        return super()._split_generators(dl_manager)

    def _first_rows(self, files: Iterable[str], dl_manager: Any) -> Iterator[dict[str, Any]]:
        rows = (self._get_pipeline_from_tar(file, dl_manager.iter_archive(file)) for file in files)
        return islice(chain.from_iterable(rows), SAMPLES_LOOKED_AT)

    def _get_pipeline_from_tar(self, tar_path: str, tar_iterator: Iterable) -> Iterator[dict[str, Any]]:
        for key, files in samples_in((name, file.read()) for name, file in tar_iterator):
            row = {suffix: _decoded(suffix, content) for suffix, content in files.items()}
            yield self._with_one_image(row) | {"__key__": key, "__url__": tar_path}

    def _with_one_image(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with its image in the column of images, where there is one for all."""
        known = self.info.features or {}
        column = next((name for name in known if name in IMAGES), None)
        if column is None or column in row:
            return row
        return {column if name in IMAGES and name not in known else name: value for name, value in row.items()}


def _features(rows: list[dict[str, Any]]) -> Features:
    """The columns of the first rows of tars.

    Raises:
        ValueError: there are none.
    """
    if not rows:
        raise ValueError("its tars hold no samples: files whose names differ in their suffix alone")
    images = {name: None for row in rows for name in row if name in IMAGES}
    spare = set(images) - set(list(images)[:1])
    if any(len(images.keys() & row.keys()) > 1 for row in rows):
        spare = set()
    names = {name: None for row in rows for name in row if name not in spare}
    columns = {name: cast_to_python_objects([row.get(name) for row in rows], only_1d_for_numpy=True) for name in names}
    schema = pyarrow.table({name: pyarrow.array(values) for name, values in columns.items()}).schema
    features = Features.from_arrow_schema(schema)
    for name in features:
        own = (kind for kind, suffixes in TYPES.items() if name.rpartition(".")[2] in suffixes)
        features[name] = next((kind() for kind in own), features[name])
    return features


def builder_of(path: str) -> DatasetBuilder:
    """What reads a folder, or a repository of the Hub.

    A folder is read by its own files alone, whatever it is called; by its metadata, whatever else is in it. Tars that
    img2dataset wrote are read without the tables beside them.

    Raises:
        ValueError, OSError, DatasetsError: what `datasets` raises where it finds nothing to read.
    """
    if Path(path).is_dir():
        path = os.path.abspath(path)  # a bare name such as "json" is that of a loader
        if _are_of_img2dataset(Path(path)):
            files = DataFilesDict.from_patterns(get_data_patterns(path), base_path=path, allowed_extensions=[".tar"])
            return Tars(dataset_name=Path(path).name, data_files=files, hash=_hash(""))
    found = load_dataset_builder(path)
    if os.path.isabs(path) and not isinstance(found, ImageFolder) and _has_metadata(Path(path)):
        return load_dataset_builder("imagefolder", data_dir=path)
    if not isinstance(found, WebDataset):
        return found
    return Tars(dataset_name=found.dataset_name, data_files=found.config.data_files, hash=_hash(found.hash))


def _has_metadata(folder: Path) -> bool:
    """Whether there is a file that tells of images, in the folder or in that of a split."""
    return any(next(folder.glob(f"{place}metadata.{kind}"), None) for place in ("", "*/") for kind in ("csv", "jsonl"))


def _are_of_img2dataset(folder: Path) -> bool:
    """Whether there are tars, and beside each a table of the same name."""
    tars = [file for pattern in ("*.tar", "*/*.tar") for file in folder.glob(pattern)]
    return bool(tars) and all(file.with_suffix(".parquet").exists() for file in tars)


def _hash(other: str) -> str:
    """Names what is kept of tars that this file has read, so that another version of it reads them again."""
    return hashlib.sha256(other.encode() + Path(__file__).read_bytes()).hexdigest()
