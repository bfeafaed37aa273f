"""Every dataset source to one schema, and samples of that schema to the tensors of `Captioner.forward`.

A sample is a dict of `image` (a path, `{"bytes", "path"}` or None), `captions` (list of str), `context` (str or
None) and `id` (str). Images stay encoded until a worker collates them. Knows nothing about models or scores.
"""

import csv
import json
import logging
import os
import random
import re
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute
import torch
from datasets import (
    Dataset,
    Features,
    Image,
    List,
    ReadInstruction,
    Value,
    load_dataset_builder,
    load_from_disk,
)
from datasets.exceptions import DatasetsError
from PIL import Image as Pillow
from torch import Tensor

from .images import ImageError, ImageSettings, open_image
from .processor import CaptionerProcessor
from .settings import DataSettings

logger = logging.getLogger(__name__)

USUAL_COLUMNS = {
    "image_column": ("image", "file_name", "filename", "image_path", "path"),
    "caption_column": ("captions", "caption", "text"),
}
SAME_SPLIT = ("validation", "val", "valid", "dev")
FLICKR8K_FILES = ("Flickr8k.token.txt", "captions.txt")
TEXTS = Features({"captions": List(Value("string")), "context": Value("string"), "id": Value("string")})


class DataError(ValueError):
    """Data that cannot be used; the message says what was looked for, what is there, and the remedy."""


class Cells(NamedTuple):
    """The texts of R rows as a source holds them; None: the source has no such column."""

    captions: Sequence[Any]
    contexts: Sequence[Any] | None = None
    ids: Sequence[Any] | None = None


@dataclass
class Rows:
    """What a reader found: R rows, one per image or one per caption, in the order of the source."""

    images: Dataset  # the column `image`
    keys: list[Hashable]  # equal where the image is the same
    names: list[str]  # what an image is called where the source gives no id
    files: list[str | None]  # that must exist
    cells: Cells


def _some(names: Iterable[Any], most: int = 8) -> str:
    names = [str(name) for name in names]
    more = f", … {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more


def _one_line(error: BaseException) -> str:
    return " ".join(str(error.__cause__ or error).split())


def _beside(path: Path) -> str:
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    return f"in {folder} there is {_some(sorted(entry.name for entry in folder.iterdir()))}"


def _root(settings: DataSettings) -> Path:
    """The file or folder at `path`."""
    if settings.path is None:
        raise DataError(f"`data.path` is not set; give the folder or file of the source {settings.source!r}")
    path = Path(settings.path).expanduser()
    if not path.exists():
        raise DataError(f"`data.path` {settings.path} does not exist; {_beside(path)}")
    return path


def _folders(root: Path, depth: int) -> Iterator[Path]:
    """A folder and its subfolders down to a depth, or the folder of a file."""
    folder = root if root.is_dir() else root.parent
    yield folder
    if depth:
        for path in sorted(entry.path for entry in os.scandir(folder) if entry.is_dir()):
            yield from _folders(Path(path), depth - 1)


def _choose_split(split: str, names: Collection[str], where: Any) -> str:
    same = [name for name in names if split in SAME_SPLIT and name in SAME_SPLIT]
    if split in names:
        return split
    if len(same) != 1:
        remedy = "set `data.train_split` or `data.validation_split`"
        raise DataError(f"{where} has no split {split!r} but {_some(names)}; {remedy}")
    return same[0]


def _annotation_file(settings: DataSettings, split: str, suffixes: Collection[str]) -> Path:
    """The file with the texts of a split: the one that is set, or named like the split, or the only one."""
    root, given = _root(settings), settings.annotations
    if isinstance(given, dict):
        given = given[_choose_split(split, given, "`data.annotations`")]
    folder = next(_folders(root, 0))
    if given is not None:
        found = [file for file in (folder / given, Path(given).expanduser()) if file.is_file()]
    else:
        there = [root] if root.is_file() else _files(folder, suffixes)
        stems = SAME_SPLIT if split in SAME_SPLIT else (split,)
        found = [file for file in there if file.stem in stems] or (there if len(there) == 1 else [])
    if not found:
        kinds = " or ".join(suffixes)
        there = _some(file.relative_to(folder).as_posix() for file in _files(folder, suffixes))
        what = f"{given} does not exist" if given else f"for split {split!r} is not clear"
        raise DataError(
            f"the annotation file {what}; set `data.annotations`, {kinds} files in {folder}: {there}"
        )
    return found[0]


def _files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files of some kinds in a folder and its direct subfolders."""
    return [
        f for place in _folders(folder, 1) for f in sorted(place.iterdir()) if f.suffix.lower() in suffixes
    ]


def _column(columns: Collection[str], settings: DataSettings, setting: str) -> str:
    """The column that a setting names; where it has its default, any usual name will do."""
    wanted = getattr(settings, setting)
    usual = USUAL_COLUMNS.get(setting, ())
    names = [name for name in (wanted, *(usual if wanted in usual[:1] else ())) if name in columns]
    if not names:
        remedy = f"set `data.{setting}` to one of them"
        raise DataError(f"{settings.path} has no column {wanted!r} but {_some(columns, 20)}; {remedy}")
    return names[0]


def _cells(
    columns: Mapping[str, Any], settings: DataSettings, captions: str, ids: str | None = None
) -> Cells:
    """The text columns: captions and ids by the names given here, context and id by the settings."""
    contexts = None
    if settings.context_column is not None:
        contexts = columns[_column(columns, settings, "context_column")][:]
    if settings.id_column is not None:
        ids = _column(columns, settings, "id_column")
    return Cells(columns[captions][:], contexts, None if ids is None else columns[ids][:])


def _file_rows(roots: Sequence[Path], names: Sequence[str | None], cells: Cells) -> Rows:
    """Rows of images that are files: `names` are relative to a root or to a folder up to two levels below."""
    probe = [name for name in names if name][:20]
    folders = (folder for root in roots for folder in _folders(root, 2))
    found = (folder for folder in folders if any((folder / name).is_file() for name in probe))
    folder = next(found, None) or next(_folders(roots[0], 0))
    files = [os.path.join(folder, name) if name else None for name in names]
    fallback = [name or str(row) for row, name in enumerate(names)]
    images = Dataset.from_dict({"image": files}, features=Features({"image": Value("string")}))
    return Rows(images, fallback, fallback, files, cells)


def _embedded_rows(images: Dataset, cells: Cells) -> Rows:
    """Rows of an Arrow column of images: the same where original name and number of bytes are the same."""
    kind = images.features["image"]
    try:
        images = images.cast_column("image", Image(decode=False))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the image column must hold images or paths, but holds {kind}; set `data.image_column`"
        ) from error
    column = images.with_format("arrow")[:]["image"]
    paths = pyarrow.compute.struct_field(column, "path").to_pylist()
    sizes = pyarrow.compute.binary_length(pyarrow.compute.struct_field(column, "bytes")).to_pylist()
    known = list(zip(paths, sizes, strict=True))
    keys = [(path, size) if path else row for row, (path, size) in enumerate(known)]
    names = [os.path.basename(path) if path else str(row) for row, path in enumerate(paths)]
    return Rows(images, keys, names, [path if size is None else None for path, size in known], cells)


def _table_rows(table: Dataset, settings: DataSettings, roots: Sequence[Path]) -> Rows:
    """Rows of a table whose columns the settings name; its images are paths, or encoded in the table."""
    image = _column(table.column_names, settings, "image_column")
    columns = {name: table[name] for name in table.column_names}
    cells = _cells(columns, settings, _column(columns, settings, "caption_column"))
    if getattr(table.features[image], "dtype", None) in ("string", "large_string"):
        return _file_rows(roots, table[image][:], cells)
    images = table.select_columns(image)
    return _embedded_rows(images if image == "image" else images.rename_column(image, "image"), cells)


def _entry_rows(entries: Sequence[dict[str, Any]], settings: DataSettings, ids: str) -> Rows:
    """Rows of JSON entries with `image` and `captions`; the settings may name keys for context and id."""
    known = {name: None for entry in entries for name in entry}
    columns = {name: [entry.get(name) for entry in entries] for name in known or ("image", "captions", ids)}
    return _file_rows([_root(settings)], columns["image"], _cells(columns, settings, "captions", ids))


def _read_repository(settings: DataSettings, split: str) -> Rows:
    """`path`: a folder with Parquet files or images, what `save_to_disk` wrote, or a Hub repository."""
    path = settings.path or ""
    remote = not Path(path).expanduser().exists() and re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", path)
    root = Path(path) if remote else _root(settings)
    try:
        table = _load(str(root), split)
    except DataError:
        raise
    except (ValueError, OSError, DatasetsError) as error:
        place = (
            f"is neither here ({_beside(root)}) nor a usable Hub repository" if remote else "does not load"
        )
        raise DataError(f"`data.path` {path} {place}: {_one_line(error)}") from error
    return _table_rows(table, settings, [Path() if remote else root])


def _load(path: str, split: str) -> Dataset:
    if any(Path(path, name).is_file() for name in ("dataset_dict.json", "state.json")):
        saved = load_from_disk(path)
        splits = {"train": saved} if isinstance(saved, Dataset) else saved
        return splits[_choose_split(split, splits, path)]
    builder = load_dataset_builder(path)
    builder.download_and_prepare()
    return builder.as_dataset(split if split == "all" else _choose_split(split, builder.info.splits, path))


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{file} is not valid JSON: {_one_line(error)}") from error


@contextmanager
def _expect(what: str, file: Path) -> Iterator[None]:
    """Turn a missing key into an error that says what the file should be."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file} is not {what} ({type(error).__name__}: {error}); set `data.annotations`"
        ) from error


def _read_coco(settings: DataSettings, split: str) -> Rows:
    """`path`: the image folder; `annotations`: a JSON file or one per split, with `images`, `annotations`.

    One file serves whatever split is asked for; hold images out with slices.
    """
    file = _annotation_file(settings, split, {".json"})
    tree, captions = _read_json(file), defaultdict(list)
    with _expect("COCO captions", file):
        for annotation in tree["annotations"]:
            captions[annotation["image_id"]].append(annotation["caption"])
        new = ({"image": image["file_name"], "captions": captions[image["id"]]} for image in tree["images"])
        entries = [{**image, **keys} for image, keys in zip(tree["images"], new, strict=True)]
    return _entry_rows(entries, settings, "id")


def _read_karpathy(settings: DataSettings, split: str) -> Rows:
    """`path`: the image folder; `annotations`: Karpathy's JSON, or BLIP's lists, told apart by their form.

    Karpathy's train includes restval. A BLIP list serves whatever split is asked for.
    """
    file = _annotation_file(settings, split, {".json"})
    tree = _read_json(file)
    if isinstance(tree, list):
        with _expect("a list of image and caption", file):
            entries = [{**entry, "image": entry["image"], "captions": entry["caption"]} for entry in tree]
        return _entry_rows(entries, settings, "image")
    with _expect("Karpathy's JSON", file):
        names = {image["split"]: None for image in tree["images"]}
        wanted = {_choose_split(split, names, file), *(["restval"] if split == "train" else [])}
        entries = [_karpathy_entry(image) for image in tree["images"] if image["split"] in wanted]
    return _entry_rows(entries, settings, "id")


def _karpathy_entry(image: dict[str, Any]) -> dict[str, Any]:
    name = "/".join(part for part in (image.get("filepath"), image["filename"]) if part)
    captions = [sentence["raw"] for sentence in image["sentences"]]
    return {**image, "image": name, "captions": captions, "id": image.get("cocoid", image["filename"])}


def _read_separated(file: Path, separator: str = ",") -> Dataset:
    """All cells stay text: an id 007 and a caption "None" are what they look like."""
    with file.open(encoding="utf-8-sig", newline="") as handle:
        header = next(csv.reader(handle, delimiter=separator), [])
    features = Features({name: Value("string") for name in header})
    return Dataset.from_csv(
        str(file), features=features, sep=separator, keep_default_na=False, encoding="utf-8-sig"
    )


TABLES = {
    ".csv": _read_separated,
    ".tsv": lambda file: _read_separated(file, "\t"),
    ".jsonl": lambda file: Dataset.from_json(str(file)),
    ".parquet": lambda file: Dataset.from_parquet(str(file)),
}


def _read_table(settings: DataSettings, split: str) -> Rows:
    """`path`: a CSV, TSV, JSONL or Parquet file, or a folder with one, or with one per split named like it.

    `annotations` may name the tables; images are then relative to `path` or to the table's folder. One table
    serves whatever split is asked for; hold images out with slices.
    """
    file = _annotation_file(settings, split, TABLES)
    read = TABLES.get(file.suffix.lower())
    if read is None:
        raise DataError(f"a table must be a {', '.join(TABLES)} file, but is {file}; convert it")
    try:
        table = read(file)
    except (ValueError, OSError, DatasetsError) as error:
        raise DataError(f"{file} is not a table: {_one_line(error)}; quote cells with commas") from error
    return _table_rows(table, settings, [_root(settings), file.parent])


def _read_flickr8k(settings: DataSettings, split: str) -> Rows:
    """`path`: the folder of `Flickr8k.token.txt` or Kaggle's `captions.txt`, split lists and images."""
    there = _files(_root(settings), {".txt"})
    usual = [file for name in FLICKR8K_FILES for file in there if file.name == name]
    file = usual[0] if usual and settings.annotations is None else _annotation_file(settings, split, {".txt"})
    captions = _flickr8k_captions(file)
    lists = {found[1]: path for path in there if (found := re.search(r"\.(\w+)Images\.txt$", path.name))}
    if split == "all" or (split == "train" and not lists):
        names = list(captions)
    elif lists:
        names = [line for line in _lines(lists[_choose_split(split, lists, settings.path)]) if line]
    else:
        remedy = "set `data.train_split` to train[:90%] and `data.validation_split` to train[90%:]"
        raise DataError(
            f"{file} has no split lists beside it, so it has no split {split!r} but train; {remedy}"
        )
    return _file_rows([_root(settings)], names, Cells([captions.get(name) for name in names]))


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text(encoding="utf-8-sig").split("\n")]


def _flickr8k_captions(file: Path) -> dict[str, list[str]]:
    """Image name → captions, from lines `name#k<TAB>caption` or, below a header, `name,caption`."""
    lines, captions = _lines(file), defaultdict(list)
    header = lines[0].replace(" ", "").lower() == "image,caption"
    for line in lines[1:] if header else lines:
        name, separator, caption = line.partition("," if header else "\t")
        if separator:
            quoted = header and len(caption) > 1 and caption[0] == caption[-1] == '"'
            caption = caption[1:-1].replace('""', '"') if quoted else caption
            captions[name if header else name.rpartition("#")[0]].append(caption)
    if not captions:
        kinds = "name#0<TAB>caption, or image,caption under that header"
        raise DataError(f"{file} holds no captions; its lines must be {kinds}")
    return captions


SOURCES = {
    "datasets": _read_repository,
    "coco": _read_coco,
    "karpathy": _read_karpathy,
    "table": _read_table,
    "flickr8k": _read_flickr8k,
}


class Samples:
    """One split: map-style and picklable, its images still encoded.

    Args:
        images: the column `image`.
        texts: the columns `captions`, `context` and `id`; iterate it to read texts without images.
    """

    def __init__(self, images: Dataset, texts: Dataset):
        self.images, self.texts = images, texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.images[index], **self.texts[index]}

    def select(self, rows: Sequence[int]) -> "Samples":
        """The samples at `rows`, in that order."""
        return Samples(self.images.select(rows), self.texts.select(rows))


def load_split(settings: DataSettings, split: str) -> Samples:
    """Read one split of any source.

    Args:
        settings: `source`, `limit` and the keys that the reader in `SOURCES` takes.
        split: a name, or a slice such as "train[:95%]", which never parts the captions of an image. The names
            in `SAME_SPLIT` stand for each other.

    Raises:
        DataError: anything missing, empty or malformed, in one line with the remedy.
    """
    if settings.source == "scenes":
        from .scenes import load_scenes

        return load_scenes(settings, split)
    name, where = split.partition("[")[0], f"split {split!r} of {settings.path}"
    samples = _group(SOURCES[settings.source](settings, name), where)
    rows = _slice(split, name, len(samples))[: settings.limit]
    if not rows:
        raise DataError(f"{where} is empty: the slice takes none of {len(samples)} samples; widen it")
    return samples if len(rows) == len(samples) else samples.select(rows)


def _slice(split: str, name: str, count: int) -> Sequence[int]:
    if split == name:
        return range(count)
    try:
        parts = ReadInstruction.from_spec(split).to_absolute({name: count})
    except (ValueError, AssertionError) as error:
        raise DataError(
            f"{split!r} is not a slice of a split; write {name}[:95%] or {name}[:1000]"
        ) from error
    return [row for part in parts for row in range(part.from_, part.to)]


def _group(rows: Rows, where: str) -> Samples:
    """One sample per image and context, its captions in the order of the rows."""
    nothing = [None] * len(rows.keys)
    contexts = [_context(value) for value in rows.cells.contexts or nothing]
    ids = [None if value in (None, "") else str(value) for value in rows.cells.ids or nothing]
    groups = defaultdict(list)
    for row, key in enumerate(rows.keys):
        groups[key if ids[row] is None else ids[row], contexts[row]].append(row)
    if not groups:
        raise DataError(f"{where} is empty; give it at least one image with a caption")
    firsts = [group[0] for group in groups.values()]
    captions = [
        [text for row in group for text in _texts(rows.cells.captions[row])] for group in groups.values()
    ]
    names = _unique([ids[row] or rows.names[row] for row in firsts])
    texts = {"captions": captions, "context": [contexts[row] for row in firsts], "id": names}
    _check(texts, rows.files, where)
    images = rows.images if len(firsts) == len(rows.images) else rows.images.select(firsts)
    return Samples(images, Dataset.from_dict(texts, features=TEXTS))


def _check(texts: dict[str, list], files: list[str | None], where: str) -> None:
    """Refuse samples without a caption, and image files that are not there."""
    without = [name for name, captions in zip(texts["id"], texts["captions"], strict=True) if not captions]
    missing = _missing(dict.fromkeys(file for file in files if file is not None))
    faults = {
        "samples without a caption": (without, "give each at least one, or remove it"),
        "image files missing": (missing, "put them there, set `data.path`, or remove their rows"),
    }
    for what, (names, remedy) in faults.items():
        if names:
            raise DataError(f"{where} has {len(names)} {what}: {_some(names, 3)}; {remedy}")


def _texts(value: Any) -> list[str]:
    """The captions in one cell, without blank ones."""
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(texts, list) or not all(isinstance(text, str | None) for text in texts):
        raise DataError(
            f"captions must be text or lists of text, but one is {value!r}; set `data.caption_column`"
        )
    return [text.strip() for text in texts if text and text.strip()]


def _context(value: Any) -> str | None:
    text = ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
    return text.strip() or None


def _unique(names: list[str]) -> list[str]:
    """The names, or where two are equal all with their place."""
    return names if len(set(names)) == len(names) else [f"{name}#{place}" for place, name in enumerate(names)]


def _missing(files: Iterable[str]) -> list[str]:
    """The files that are not there; every folder is listed once and no file is opened."""
    listed: dict[str, set[str]] = {}
    missing = []
    for file in files:
        folder, name = os.path.split(file)
        if folder not in listed:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in listed[folder]:
            missing.append(file)
    return missing


class CaptionDataset(torch.utils.data.Dataset):
    """Samples with their `index` and the `epoch`, which workers see change though they were started before.

    Call `set_epoch` before each pass over the loader; the number lies in shared memory.
    """

    def __init__(self, samples: Any):
        self.samples = samples
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose which captions and augmentations the next pass draws."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.samples[index], "index": index, "epoch": int(self._epoch)}


class Collator:
    """Samples of a `CaptionDataset` to the tensors of `Captioner.forward`; decodes the images.

    What it draws is a function of (seed, epoch, index) alone: not of workers, batches or restarts. A sample
    whose image cannot be read is left out and logged, once per id and worker.

    Args:
        processor: makes the tensors.
        captions_per_image: G. Over successive epochs every caption of an image is drawn; an epoch repeats one
            only where the image has fewer than G. None, for evaluation: no caption tensors, but `samples`.
        augment: options of `timm.data.create_transform`; empty: the processor's plain transform. Crops, flips
            and colour changes are off unless asked for, since captions speak of borders, sides and colours.
        seed: of captions and augmentations.
        modalities: `config.modalities` of the captioner; None: image and context where a sample has one.

    Raises:
        DataError: an option of `augment` that timm refuses; when called, a batch without any readable image.
    """

    def __init__(
        self,
        processor: CaptionerProcessor,
        captions_per_image: int | None = 1,
        augment: dict[str, Any] | None = None,
        seed: int = 0,
        modalities: Collection[str] | None = None,
    ):
        self.processor, self.captions_per_image, self.seed = processor, captions_per_image, seed
        self.modalities = modalities
        self.transform = _augmentation(augment, processor.image_settings) if augment else None
        self._logged: set[str] = set()

    @classmethod
    def for_evaluation(
        cls, processor: CaptionerProcessor, modalities: Collection[str] | None = None
    ) -> "Collator":
        """Plain images and contexts, and `samples`: B dicts of `id`, `captions`, `context` and `index`."""
        return cls(processor, captions_per_image=None, modalities=modalities)

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """B samples → `pixel_values` (B, 3, H, W), `context_input_ids` (B, L), `labels` (N, T), …"""
        given, batch = {}, {}
        if self._wants("image", samples):
            samples, images = self._open(samples)
            if self.transform is None:
                given["images"] = images
            else:
                batch = self._augmented(samples, images)
        if self._wants("context", samples):
            given["context"] = [sample.get("context") for sample in samples]
        if self.captions_per_image is None:
            batch["samples"] = [{k: v for k, v in sample.items() if k != "image"} for sample in samples]
        else:
            given["captions"] = [self._draw(sample) for sample in samples]
        return {**batch, **self.processor(**given)} if given else batch

    def _wants(self, modality: str, samples: list[dict[str, Any]]) -> bool:
        if self.modalities is not None:
            return modality in self.modalities
        usable = modality != "image" or self.processor.image_settings is not None
        return usable and any(sample.get(modality) is not None for sample in samples)

    def _open(self, samples: list[dict[str, Any]]) -> tuple[list[dict], list[Pillow.Image | None]]:
        """The samples whose image is readable or absent, and those images."""
        kept, images = [], []
        for sample in samples:
            try:
                images.append(None if sample.get("image") is None else open_image(sample["image"]))
                kept.append(sample)
            except ImageError as error:
                self._log(sample["id"], error)
        if not kept:
            names = _some(sample["id"] for sample in samples)
            raise DataError(
                f"none of the {len(samples)} images of a batch can be read ({names}); repair the files"
            )
        return kept, images

    def _log(self, name: str, error: ImageError) -> None:
        if name not in self._logged:
            self._logged.add(name)
            logger.warning(
                "sample %s left out (%d so far in this worker): %s", name, len(self._logged), error
            )

    def _augmented(
        self, samples: list[dict[str, Any]], images: list[Pillow.Image | None]
    ) -> dict[str, Tensor]:
        settings = self.processor.image_settings
        pixels = torch.zeros(len(images), 3, settings.height, settings.width)
        mask = torch.tensor([image is not None for image in images])
        for row, (sample, image) in enumerate(zip(samples, images, strict=True)):
            if image is not None:
                with _seeded(self.seed, sample.get("epoch", 0), sample["index"]):
                    pixels[row] = self.transform(image)
        return {"pixel_values": pixels} if mask.all() else {"pixel_values": pixels, "image_mask": mask}

    def _draw(self, sample: dict[str, Any]) -> list[str]:
        """G captions: the next ones in an order that is the image's own."""
        captions, count = sample["captions"], self.captions_per_image
        if not captions:
            raise DataError(f"sample {sample['id']} has no captions; remove it from the training split")
        order = random.Random(f"{self.seed} {sample['index']}").sample(captions, len(captions))
        start = sample.get("epoch", 0) * count
        return [order[(start + place) % len(order)] for place in range(count)]


def _augmentation(augment: dict[str, Any], settings: ImageSettings | None) -> Any:
    """timm's training transform, with the processor's size and colours; tried on a blank photo."""
    from timm.data import create_transform

    if settings is None:
        raise DataError("`data.augment` is set, but the processor has no `image_settings`; set it to {}")
    size = (3, settings.height, settings.width)
    whole = {"scale": (1.0, 1.0), "ratio": (0.01, 100.0)}
    crop = {} if {"scale", "ratio", "train_crop_mode"} & set(augment) else whole
    look = {"mean": settings.mean, "std": settings.std, "interpolation": settings.interpolation}
    options = {"hflip": 0.0, "color_jitter": None, **crop, **look, **augment}
    try:
        transform = create_transform(size, is_training=True, **options)
        with _seeded(0):
            pixels = transform(Pillow.new("RGB", (settings.width, settings.height)))
        if tuple(pixels.shape) != size or not pixels.is_floating_point():
            raise ValueError(f"it makes {pixels.dtype} of shape {tuple(pixels.shape)}")
    except (TypeError, ValueError, AttributeError, AssertionError) as error:
        remedy = "give training options of timm.data.create_transform"
        raise DataError(f"`data.augment` is {augment}: {_one_line(error)}; {remedy}") from error
    return transform


@contextmanager
def _seeded(*key: int) -> Iterator[None]:
    """Seed the three global generators that transforms draw from, and put them back."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = random.Random(repr(key)).getrandbits(32)
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
