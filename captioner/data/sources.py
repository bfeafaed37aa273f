"""The readers of every dataset source: each brings its files to rows of one image and its texts.

Knows nothing about samples, tensors or models; images are not opened.
"""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value, load_from_disk
from datasets.exceptions import DatasetsError

from ..base import DataSettings, one_line, some
from .rows import Cells, DataError, Rows, embedded_rows, file_rows, folders, holds_paths, with_modalities
from .tars import builder_of

USUAL_COLUMNS = {
    "image_column": ("image", "images", "file_name", "filename", "image_path", "path", "jpg", "jpeg", "png", "webp"),
    "caption_column": ("captions", "caption", "text", "txt", "json.captions", "json.caption"),
}
SAME_SPLIT = ("validation", "val", "valid", "dev")
FLICKR8K_FILES = ("Flickr8k.token.txt", "captions.txt")


def _beside(path: Path) -> str:
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    return f"in {folder} there is {some(sorted(entry.name for entry in folder.iterdir()))}"


def root_of(settings: DataSettings) -> Path:
    """The file or folder at `path`."""
    if settings.path is None:
        raise DataError(f"`data.path` is not set; give the folder or file of the source {settings.source!r}")
    path = Path(settings.path).expanduser()
    if not path.exists():
        raise DataError(f"`data.path` {settings.path} does not exist; {_beside(path)}")
    return path


def choose_split(split: str, names: Collection[str], where: Any) -> str:
    """The name that stands for a split among those that there are."""
    same = [name for name in names if split in SAME_SPLIT and name in SAME_SPLIT]
    if split in names:
        return split
    if len(same) != 1:
        remedy = "set `data.train_split` or `data.validation_split`"
        raise DataError(f"{where} has no split {split!r} but {some(names)}; {remedy}")
    return same[0]


def named_file(settings: DataSettings, split: str, suffixes: Collection[str], key: str = "annotations") -> Path:
    """The file with the texts of a split: the one that is set, or named like the split, or the only one."""
    root, given = root_of(settings), getattr(settings, key)
    if isinstance(given, dict):
        given = given[choose_split(split, given, f"`data.{key}`")]
    folder = next(folders(root, 0))
    if given is not None:
        found = [file for file in (folder / given, Path(given).expanduser()) if file.is_file()]
    else:
        there = [root] if root.is_file() else _files(folder, suffixes)
        stems = SAME_SPLIT if split in SAME_SPLIT else (split,)
        found = [file for file in there if file.stem in stems] or (there if len(there) == 1 else [])
    if not found:
        kinds = " or ".join(suffixes)
        there = some(file.relative_to(folder).as_posix() for file in _files(folder, suffixes))
        what = f"{given} does not exist" if given else f"for split {split!r} is not clear"
        raise DataError(f"the annotation file {what}; set `data.{key}`, {kinds} files in {folder}: {there}")
    return found[0]


def _files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files of some kinds in a folder and its direct subfolders."""
    return [f for place in folders(folder, 1) for f in sorted(place.iterdir()) if f.suffix.lower() in suffixes]


def column_named(columns: Collection[str], settings: DataSettings, setting: str) -> str:
    """The column that a setting names; where it has its default, any usual name will do."""
    wanted = getattr(settings, setting)
    usual = USUAL_COLUMNS.get(setting, ())
    names = [name for name in (wanted, *(usual if wanted in usual[:1] else ())) if name in columns]
    if not names:
        remedy = f"set `data.{setting}` to one of them"
        raise DataError(f"{settings.path} has no column {wanted!r} but {some(columns, 20)}; {remedy}")
    return names[0]


def _cells(columns: Mapping[str, Any], settings: DataSettings, captions: str, ids: str | None = None) -> Cells:
    """The text columns: captions and ids by the names given here, context and id by the settings."""
    contexts = None
    if settings.context_column is not None:
        contexts = columns[column_named(columns, settings, "context_column")][:]
    if settings.id_column is not None:
        ids = column_named(columns, settings, "id_column")
    return Cells(columns[captions][:], contexts, None if ids is None else columns[ids][:])


def table_rows(table: Dataset, settings: DataSettings, roots: Sequence[Path]) -> Rows:
    """Rows of a table whose columns the settings name; its images are paths, encoded in the table, or none."""
    columns = {name: table[name] for name in table.column_names}
    cells = _cells(columns, settings, column_named(columns, settings, "caption_column"))
    image = None if settings.image_column is None else column_named(columns, settings, "image_column")
    if image is None:
        rows = file_rows(roots, [None] * len(table), cells)
    elif holds_paths(table.features[image]):
        rows = file_rows(roots, table[image][:], cells)
    else:
        images = table.select_columns(image)
        rows = embedded_rows(images if image == "image" else images.rename_column(image, "image"), cells)
    return with_modalities(rows, columns, settings, roots)


def _entry_rows(entries: Sequence[dict[str, Any]], settings: DataSettings, ids: str) -> Rows:
    """Rows of JSON entries with `image` and `captions`; the settings may name keys for context and id."""
    known = {name: None for entry in entries for name in entry}
    columns = {name: [entry.get(name) for entry in entries] for name in known or ("image", "captions", ids)}
    roots = [root_of(settings)]
    rows = file_rows(roots, columns["image"], _cells(columns, settings, "captions", ids))
    return with_modalities(rows, columns, settings, roots)


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
        place = f"is neither here ({_beside(root)}) nor a usable Hub repository" if remote else "does not load"
        raise DataError(f"`data.path` {path} {place}: {one_line(error)}") from error


def _read_repository(settings: DataSettings, split: str) -> Rows:
    """`path`: a folder with Parquet files or images, what `save_to_disk` wrote, or a Hub repository."""
    with located(settings) as (path, root):
        table = load_repository(path, split)
    return table_rows(table, settings, [root])


def load_repository(path: str, split: str) -> Dataset:
    """One split of a saved dataset, of a folder that datasets reads, or of a Hub repository.

    What is inside a column there becomes a column: `json` that holds `title`, the column `json.title`.
    """
    if any(Path(path, name).is_file() for name in ("dataset_dict.json", "state.json")):
        saved = load_from_disk(path)
        splits = {"train": saved} if isinstance(saved, Dataset) else saved
        return splits[choose_split(split, splits, path)]
    builder = builder_of(path)
    builder.download_and_prepare()
    return builder.as_dataset(split if split == "all" else choose_split(split, builder.info.splits, path)).flatten()


def read_json(file: Path) -> Any:
    """What a JSON file holds."""
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{file} is not valid JSON: {one_line(error)}") from error


@contextmanager
def expect(what: str, file: Path) -> Iterator[None]:
    """Turn a missing key into an error that says what the file should be."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is not {what} ({type(error).__name__}: {error}); set `data.annotations`") from error


def _read_coco(settings: DataSettings, split: str) -> Rows:
    """`path`: the image folder; `annotations`: a JSON file or one per split, with `images`, `annotations`.

    One file serves whatever split is asked for; hold images out with slices.
    """
    file = named_file(settings, split, {".json"})
    tree, captions = read_json(file), defaultdict(list)
    with expect("COCO captions", file):
        for annotation in tree["annotations"]:
            captions[annotation["image_id"]].append(annotation["caption"])
        new = ({"image": image["file_name"], "captions": captions[image["id"]]} for image in tree["images"])
        entries = [{**image, **keys} for image, keys in zip(tree["images"], new, strict=True)]
    return _entry_rows(entries, settings, "id")


def _read_karpathy(settings: DataSettings, split: str) -> Rows:
    """`path`: the image folder; `annotations`: Karpathy's JSON, or BLIP's lists, told apart by their form.

    Karpathy's train includes restval. A BLIP list serves whatever split is asked for.
    """
    file = named_file(settings, split, {".json"})
    tree = read_json(file)
    if isinstance(tree, list):
        with expect("a list of image and caption", file):
            entries = [{**entry, "image": entry["image"], "captions": entry["caption"]} for entry in tree]
        return _entry_rows(entries, settings, "image")
    with expect("Karpathy's JSON", file):
        names = {image["split"]: None for image in tree["images"]}
        wanted = {choose_split(split, names, file), *(["restval"] if split == "train" else [])}
        entries = [_karpathy_entry(image) for image in tree["images"] if image["split"] in wanted]
    return _entry_rows(entries, settings, "id")


def _karpathy_entry(image: dict[str, Any]) -> dict[str, Any]:
    name = "/".join(part for part in (image.get("filepath"), image["filename"]) if part)
    captions = [sentence["raw"] for sentence in image["sentences"]]
    return {**image, "image": name, "captions": captions, "id": image.get("cocoid", image["filename"])}


def _read_separated(file: Path, separator: str = ",") -> Dataset:
    """All cells stay text: an id 007 and a caption "None" are what they look like."""
    with file.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.reader(handle, delimiter=separator)
        header, rows = next(reader, []), []
        for cells in filter(None, reader):
            if len(cells) != len(header):
                found = f"line {reader.line_num} has {len(cells)} cells below a header of {len(header)}"
                raise DataError(f"{file}: {found}; quote cells that contain {separator!r} or line ends")
            rows.append(cells)
    columns = {name: [cells[place] for cells in rows] for place, name in enumerate(header)}
    return Dataset.from_dict(columns, features=Features(dict.fromkeys(header, Value("string"))))


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
    file = named_file(settings, split, TABLES)
    read = TABLES.get(file.suffix.lower())
    if read is None:
        raise DataError(f"a table must be a {', '.join(TABLES)} file, but is {file}; convert it")
    try:
        table = read(file)
    except DataError:
        raise
    except (ValueError, OSError, DatasetsError) as error:
        raise DataError(f"{file} cannot be read as {file.suffix}: {one_line(error)}; repair or convert it") from error
    return table_rows(table, settings, [root_of(settings), file.parent])


def _read_flickr8k(settings: DataSettings, split: str) -> Rows:
    """`path`: the folder of `Flickr8k.token.txt` or Kaggle's `captions.txt`, split lists and images."""
    there = _files(root_of(settings), {".txt"})
    usual = [file for name in FLICKR8K_FILES for file in there if file.name == name]
    file = usual[0] if usual and settings.annotations is None else named_file(settings, split, {".txt"})
    captions = _flickr8k_captions(file)
    lists = {found[1]: path for path in there if (found := re.search(r"\.(\w+)Images\.txt$", path.name))}
    if split == "all" or (split == "train" and not lists):
        names = list(captions)
    elif lists:
        names = [line for line in _lines(lists[choose_split(split, lists, settings.path)]) if line]
    else:
        remedy = "set `data.train_split` to train[:90%] and `data.validation_split` to train[90%:]"
        raise DataError(f"{file} has no split lists beside it, so it has no split {split!r} but train; {remedy}")
    return file_rows([root_of(settings)], names, Cells([captions.get(name) for name in names]))


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
