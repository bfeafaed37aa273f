"""From a photo to what its caption rests on: the step that `attend`, the pages and the app share.

Knows how a sample is captioned and measured; knows nothing about how the result is shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image

from ..cpu import wide_products
from ..model import Captioner, CaptionerProcessor, as_list, each, open_image
from .attribution import Attribution, AttributionError
from .measuring import attribute
from .photos import seen_part


@dataclass(frozen=True)
class Look:
    """What a caption rests on, and the part of the photo that the encoder saw (None without one)."""

    found: Attribution
    photo: Image.Image | None


def look(
    model: Captioner,
    processor: CaptionerProcessor,
    image: Any = None,
    context: str | None = None,
    caption: str | None = None,
    further: Mapping[str, Any] | None = None,
    **search_options: Any,
) -> Look:
    """Look into a caption of one sample: an image, a context, further modalities, or several of them.

    Args:
        image: what `open_image` reads, a list of several, of which the first is shown, or None.
        caption: None: the captioner's own, found by `generate` with `search_options`.
        further: further modalities by name, each what `ModalityInput.read` takes.

    Raises:
        ImageError, FeatureError, AttributionError: an image or features that cannot be read, a modality that the
            captioner has no encoder for, a caption without words.
    """
    further = further or {}
    given = {"image": image, "context": context, **further}
    unknown = [name for name, value in given.items() if value is not None and name not in model.config.modalities]
    if unknown:
        raise AttributionError(f"this captioner has no encoder for {unknown}; it takes {model.config.modalities}")
    photos = each(partial(open_image, most=processor.max_pixels), image)
    words = caption
    if words is None:
        words = generated_ids(model, processor, photos, context, further, **search_options)[0]
    found = attribute(model, processor, words, photos, context, **further)
    first = next(iter(as_list(photos)), None)
    return Look(found, None if first is None else seen_part(first, processor.image_settings))


def generated_ids(
    model: Captioner,
    processor: CaptionerProcessor,
    image: Any = None,
    context: str | None = None,
    further: Mapping[str, Any] | None = None,
    **search_options: Any,
) -> list[list[int]]:
    """Ids of the captions of one sample, best first, by `generate` with `search_options`."""
    given = {"images": image, "context": context, **(further or {})}
    batch = processor(**{name: [value] for name, value in given.items() if value is not None})
    batch = {name: value.to(model.device) for name, value in batch.items()}
    most = model.config.decoder.max_positions - 1
    options = {"max_new_tokens": most, **search_options}
    options["max_new_tokens"] = min(most, options["max_new_tokens"])
    with torch.no_grad(), wide_products(model.device):
        memory = model.encode(**batch)
    return model.generate(encoder_outputs=memory, **options).tolist()
