"""The image encoder of a caption store, whose tokens become one direction per image.

It is kept in the store, so that a store serves any captioner. Knows nothing about captions or indexes.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from ..adopt import load_timm_weights
from ..base import say
from ..cpu import wide_products
from ..data import CaptionDataset, Sample, Split
from ..model import Captioner, CaptionerProcessor, ImageEncoder, ImageError, ImageSettings, open_image
from .caption_store import StoreError

WEIGHTS = "encoder.safetensors"
ADVICE = "make the store again with `captioner index`"


class StoreEncoder:
    """Images to features, the mean over an image encoder's tokens.

    Args:
        config: `CaptionerConfig.image_encoder`.
        encoder: with weights.
        settings: what is done to images before.
    """

    def __init__(self, config: dict[str, Any], encoder: ImageEncoder, settings: ImageSettings):
        self.config, self.encoder, self.settings = config, encoder.eval(), settings

    @classmethod
    def of_captioner(cls, model: Captioner, processor: CaptionerProcessor) -> "StoreEncoder":
        """A captioner's own.

        Raises:
            StoreError: it has none.
        """
        if model.encoder.image is None:
            raise StoreError("this captioner has no image encoder, so it cannot tell which images are alike")
        return cls(model.config.image_encoder, model.encoder.image, processor.image_settings)

    @classmethod
    def of_timm(cls, name: str, pretrained: bool | str = True) -> "StoreEncoder":
        """A timm model with its weights, or those of a local file.

        Raises:
            PartsError, ValueError: a name that timm does not know, or weights that are not at hand.
        """
        config = {"name": name}
        encoder = ImageEncoder(config)
        load_timm_weights(encoder.backbone, config | {"pretrained": pretrained})
        return cls(config, encoder, ImageSettings.for_encoder(config))

    @classmethod
    def of_store(cls, directory: Path, facts: dict[str, Any]) -> "StoreEncoder":
        """The one that made a store, checked against the fingerprint that the store has of it.

        Raises:
            StoreError: it is not the one that made the features.
        """
        try:
            config, settings = facts["image_encoder"], ImageSettings(**facts["image_settings"])
            found = encoder_fingerprint(directory / WEIGHTS, config, settings)
        except (OSError, KeyError) as error:
            raise StoreError(f"the caption store {directory} lacks {error}; {ADVICE}") from error
        except (TypeError, ValueError) as error:
            raise StoreError(f"the caption store {directory} tells of no image encoder: {error}; {ADVICE}") from error
        if found != facts["fingerprint"]:
            raise StoreError(
                f"the caption store {directory} was made by another image encoder than the one in it "
                f"({facts['fingerprint'][:12]}, not {found[:12]}), so nothing in it would be near; {ADVICE}"
            )
        encoder = ImageEncoder(config)
        load_model(encoder, directory / WEIGHTS)
        return cls(config, encoder, settings)

    def save(self, directory: Path) -> dict[str, Any]:
        """Write the weights; → what `of_store` needs to know beside them."""
        save_model(self.encoder, directory / WEIGHTS)
        return {
            "image_encoder": self.config,
            "image_settings": asdict(self.settings),
            "fingerprint": encoder_fingerprint(directory / WEIGHTS, self.config, self.settings),
        }

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> np.ndarray:
        """uint8 (B, 3, H, W) → features (B, D) float32."""
        like = next(self.encoder.parameters())
        with wide_products(like.device):
            states = self.encoder(self.settings.normalize(pixels.to(like.device)).to(like.dtype))
        return states.float().mean(1).cpu().numpy()

    def encode(
        self, samples: Split, rows: Iterable[int], batch_size: int, workers: int
    ) -> Iterator[tuple[np.ndarray, list[Sample]]]:
        """Features of the samples at `rows`; those without an image that can be read are passed over.

        Yields:
            Features (B, D), and B samples without their image; `index` is their row.
        """
        loader = DataLoader(
            Subset(CaptionDataset(samples), list(rows)),
            batch_size=batch_size,
            num_workers=workers,
            collate_fn=PixelCollator(self.settings),
        )
        unreadable = 0
        for pixels, own, failed in loader:
            unreadable += failed
            if own:
                yield self(pixels), own
        if unreadable:
            say(f"{unreadable} images could not be read: nothing is retrieved by them")


class PixelCollator:
    """Samples to pixels as the encoder takes them, in workers."""

    def __init__(self, settings: ImageSettings):
        self.settings = settings

    def __call__(self, samples: list[Sample]) -> tuple[Tensor | None, list[Sample], int]:
        """Samples → uint8 (B, 3, H, W) of those whose image can be read, these samples, and how many cannot.

        Of several images the first one counts.
        """
        pixels, kept, failed = [], [], 0
        for sample in samples:
            image = sample.get("image")
            image = next(iter(image), None) if isinstance(image, list) else image
            if image is None:
                continue
            try:
                pixels.append(self.settings.fit(open_image(image)))
                kept.append({key: value for key, value in sample.items() if key != "image"})
            except ImageError:
                failed += 1
        return torch.stack(pixels) if pixels else None, kept, failed


def encoder_fingerprint(weights: Path, config: dict[str, Any], settings: ImageSettings) -> str:
    """Of an encoder's weights on disk, its configuration and what is done to images before it."""
    digest = hashlib.sha256(json.dumps([config, asdict(settings)], sort_keys=True).encode())
    with weights.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
