"""A caption store on disk: a FAISS index of image features, the captions of each image, the encoder of the features.

What grows with the number of images is memory-mapped, so a store may be larger than memory; nothing of it is executed
when it is read. Knows nothing about samples, captioners or which neighbours are wanted.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..base import one_line, parse_json, read_text, recover, whole

FORMAT = 1
EXACT = 50_000  # images up to which every one is compared; above, the nearest cells of an inverted file
CELLS = 4  # times the square root of the images; FAISS advises 4 to 16
PROBED = 32  # cells looked at per query
TRAINED_ON = 40  # images per cell that its centre is found from
ROUNDS = 10  # of k-means
BLOCK = 16_384  # images that are added at a time


class StoreError(ValueError):
    """A caption store that cannot be made, read or used; the message says what would help."""


def import_faiss() -> Any:
    """The `faiss` module.

    Raises:
        StoreError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise StoreError("caption stores need FAISS: pip install 'captioner[retrieval]'") from error
    return faiss


class Texts(Sequence[str]):
    """Strings in two memory-mapped arrays: the bytes of all, and where each ends."""

    def __init__(self, directory: Path, name: str):
        self.letters = np.load(directory / f"{name}.npy", mmap_mode="r")
        self.ends = np.load(directory / f"{name}_ends.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return self.letters[start : self.ends[index]].tobytes().decode()

    @staticmethod
    def write(texts: Iterable[str], directory: Path, name: str) -> None:
        """Write strings for `Texts` to read."""
        encoded = [text.encode("utf-8", "replace") for text in texts]
        np.save(directory / f"{name}.npy", np.frombuffer(b"".join(encoded), np.uint8))
        np.save(directory / f"{name}_ends.npy", np.cumsum([len(text) for text in encoded], dtype=np.int64))


class CaptionStore:
    """Images by the direction of their features, with their captions and ids.

    Args:
        directory: what `write_store` wrote.

    Raises:
        StoreError: no store, or one of another format.
    """

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)
        recover(self.directory)
        self.facts = _facts(self.directory)
        faiss = import_faiss()
        try:
            self.captions, self.ids = Texts(self.directory, "captions"), Texts(self.directory, "ids")
            self.ends = np.load(self.directory / "images.npy", mmap_mode="r")
            self.index = faiss.read_index(str(self.directory / "index.faiss"), faiss.IO_FLAG_MMAP_IFC)
        except (OSError, ValueError, EOFError, RuntimeError) as error:
            raise StoreError(
                f"the caption store {directory} lacks a file or has a broken one: {one_line(error)[-200:]}; make it "
                "again with `captioner index`"
            ) from error
        if not len(self.ids) == len(self.ends) == self.index.ntotal:
            raise StoreError(f"{directory} mixes files of several stores; make it again with `captioner index`")

    def __len__(self) -> int:
        return len(self.ids)

    def captions_of(self, image: int) -> list[str]:
        """The captions of an image, by its place."""
        start = self.ends[image - 1] if image else 0
        return [self.captions[i] for i in range(start, self.ends[image])]

    def search(self, features: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest images by cosine, nearest first.

        Args:
            features: (B, D), of any length.
            count: of images, K.

        Returns:
            Cosines (B, K) and places (B, K); a place is -1 where fewer were found.
        """
        return self.index.search(unit(np.asarray(features, np.float32)), min(count, len(self)))


def unit(features: np.ndarray) -> np.ndarray:
    """Features (B, D) at length 1; those of length 0 stay."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.ascontiguousarray(features / np.maximum(lengths, 1e-12), np.float32)


def write_store(
    directory: Path,
    batches: Iterable[tuple[np.ndarray, Sequence[str], Sequence[Sequence[str]]]],
    save_encoder: Callable[[Path], dict[str, Any]],
    kind: str | None = None,
) -> None:
    """Write a store, which is there whole or not at all; features are kept on disk until all are known.

    Args:
        batches: features (B, D), ids and captions of B images.
        save_encoder: writes what made the features beside them, and returns what `store.json` says of it.
        kind: of index, as `faiss.index_factory` names it; None: exact for few images, an inverted file for many.

    Raises:
        StoreError: no images, or an index that FAISS cannot make.
        WriteError: the disk is full.
    """
    ids: list[str] = []
    captions: list[Sequence[str]] = []
    with whole(directory) as fresh:
        raw = fresh / "features"
        with raw.open("wb") as file:
            for features, own_ids, own_captions in batches:
                file.write(unit(features).astype(np.float16).tobytes())
                ids += own_ids
                captions += own_captions
        if not ids:
            raise StoreError("no image of the split can be read, so there is nothing to store; check its paths")
        index = _index(np.memmap(raw, np.float16).reshape(len(ids), -1), kind)
        import_faiss().write_index(index, str(fresh / "index.faiss"))
        raw.unlink()
        Texts.write(ids, fresh, "ids")
        Texts.write(chain.from_iterable(captions), fresh, "captions")
        np.save(fresh / "images.npy", np.cumsum([len(own) for own in captions], dtype=np.int64))
        facts = {"format": FORMAT, "images": len(ids), "captions": sum(map(len, captions)), "width": index.d}
        (fresh / "store.json").write_text(json.dumps(facts | save_encoder(fresh), indent=2) + "\n")


def _index(features: np.ndarray, kind: str | None) -> Any:
    """A FAISS index of unit vectors (images, D) by inner product, which is then the cosine."""
    faiss = import_faiss()
    images, width = features.shape
    cells = int(CELLS * images**0.5)
    kind = kind or ("SQfp16" if images <= EXACT else f"IVF{cells},SQfp16")
    try:
        index = faiss.index_factory(width, kind, faiss.METRIC_INNER_PRODUCT)
        if kind.startswith("IVF"):
            inverted = faiss.extract_index_ivf(index)
            inverted.nprobe, inverted.cp.niter = min(PROBED, inverted.nlist), ROUNDS
        if not index.is_trained:
            index.train(_sample(features, TRAINED_ON * cells))
        for start in range(0, images, BLOCK):
            index.add(np.asarray(features[start : start + BLOCK], np.float32))
    except RuntimeError as error:
        raise StoreError(f"FAISS cannot make an index {kind!r} of {images} images: {one_line(error)[-200:]}") from error
    return index


def _sample(features: np.ndarray, count: int) -> np.ndarray:
    """Rows spread evenly over all."""
    return np.asarray(features[np.linspace(0, len(features) - 1, min(count, len(features)), dtype=int)], np.float32)


def _facts(directory: Path) -> dict[str, Any]:
    try:
        facts = dict(parse_json(read_text(directory / "store.json"), "store.json"))
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(
            f"{directory} is no caption store; make one with `captioner index DATASET --output {directory}`"
        ) from error
    if facts.get("format") != FORMAT:
        raise StoreError(
            f"{directory} has the format {facts.get('format')}, not {FORMAT}; make it again with `captioner index`"
        )
    return facts
