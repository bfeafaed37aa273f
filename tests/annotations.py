"""Photos, annotation files and repositories written to a folder, and what loading them gives or says."""

import json
from pathlib import Path

import datasets
import pytest
from PIL import Image

from captioner.base import DataSettings
from captioner.data import DataError, load_split


def photo(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 8), colour).save(path, "PNG")
    return path


def photos(folder: Path, *names: str) -> None:
    for name in names:
        photo(folder / name)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, tree) -> Path:
    return write(path, json.dumps(tree))


def load(source: str, path: Path, split: str = "train", **keys):
    return load_split(DataSettings(source=source, path=str(path), **keys), split)


def table(samples) -> dict:
    return {sample["id"]: sample["captions"] for sample in samples}


def refusal(source: str, path, split: str = "train", **keys) -> str:
    with pytest.raises(DataError) as caught:
        load_split(DataSettings(source=source, path=None if path is None else str(path), **keys), split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def repository(folder: Path, splits: dict[str, dict]) -> Path:
    """A folder of Parquet files with embedded images, as on the Hub."""
    for split, columns in splits.items():
        features = datasets.Features(
            {
                name: datasets.Image()
                if name == "image"
                else datasets.List(datasets.Value("string"))
                if isinstance(values[0], list)
                else datasets.Value("string")
                for name, values in columns.items()
            }
        )
        folder.mkdir(parents=True, exist_ok=True)
        rows = datasets.Dataset.from_dict(columns, features=features)
        rows.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def encoded(tmp_path: Path, name: str | None, colour: str = "red") -> dict:
    return {"bytes": photo(tmp_path / "made.png", colour).read_bytes(), "path": name}
