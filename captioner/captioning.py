"""Image files to captions: find them, decode them in workers, caption them in batches, record what went wrong.

Knows nothing about the command line. A file that cannot be read becomes a record with `error`, never an exception.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from .evaluation import generation_options
from .images import ImageError, open_image
from .model import Captioner
from .processor import CaptionerProcessor
from .settings import GenerationSettings

SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".apng",
        ".gif",
        ".webp",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".avif",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".tga",
        ".ico",
    ]
)


class CaptioningError(ValueError):
    """Input or output that cannot be used; the message says what would work."""


def find_images(paths: Sequence[str], recursive: bool = False) -> list[str]:
    """Files as given, and the images of folders in name order.

    Raises:
        CaptioningError: a path that is not there, or nothing to caption.
    """
    found: list[str] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = path.rglob("*") if recursive else path.iterdir()
            found += sorted(str(file) for file in inside if file.suffix.lower() in SUFFIXES and file.is_file())
        elif path.exists():
            found.append(str(path))
        else:
            raise CaptioningError(f"there is no file or folder {str(path)!r}")
    if not found:
        raise CaptioningError(
            f"no images in {', '.join(paths)}: looked for {', '.join(sorted(SUFFIXES))}; `--recursive` looks deeper"
        )
    return found


class ImageFiles(Dataset):
    """Paths to `(path, pixel_values (3, H, W))` or `(path, what went wrong)`; runs in workers."""

    def __init__(self, paths: Sequence[str], processor: CaptionerProcessor):
        self.paths, self.settings = paths, processor.image_settings

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[str, Any]:
        path = self.paths[index]
        try:
            return path, self.settings.normalize(self.settings.fit(open_image(path)))
        except ImageError as error:
            return path, str(error)


@dataclass
class Captioning:
    """How to caption: the captioner, the search, and one context for every image.

    Args:
        context: text that the captioner reads beside each image, or None.
        batch_size: images at a time.
        workers: processes that decode images.
    """

    model: Captioner
    processor: CaptionerProcessor
    generation: GenerationSettings
    context: str | None = None
    batch_size: int = 16
    workers: int = 0

    def __post_init__(self) -> None:
        modalities = self.model.config.modalities
        if "image" not in modalities:
            raise CaptioningError(f"this captioner reads {modalities} only; it cannot caption images")
        if self.context and "context" not in modalities:
            raise CaptioningError("`--context` was given, but this captioner has no context encoder; leave it out")

    def run(self, paths: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Records in the order of the paths: `image` and `caption` (or `captions`, when several), or `error`."""
        loader = DataLoader(
            ImageFiles(paths, self.processor),
            batch_size=self.batch_size,
            num_workers=min(self.workers, len(paths) // self.batch_size),
            collate_fn=list,
        )
        for pairs in loader:
            captions = iter(self._caption([pixels for _, pixels in pairs if isinstance(pixels, torch.Tensor)]))
            for path, pixels in pairs:
                good = isinstance(pixels, torch.Tensor)
                yield {"image": path, **(next(captions) if good else {"error": pixels})}

    @torch.inference_mode()
    def _caption(self, images: list[torch.Tensor]) -> Iterable[dict[str, Any]]:
        """(3, H, W) each → a dict with `caption` or `captions` each."""
        if not images:
            return []
        batch = {"pixel_values": torch.stack(images)}
        if self.context:
            batch |= self.processor(context=[self.context] * len(images))
        batch = {name: value.to(self.model.device) for name, value in batch.items()}
        options = generation_options(self.generation, self.model)
        texts = self.processor.batch_decode(self.model.generate(**batch, **options))
        count = self.generation.num_return_sequences
        groups = [texts[i : i + count] for i in range(0, len(texts), count)]
        return [{"caption": own[0]} if count == 1 else {"caption": own[0], "captions": own} for own in groups]
