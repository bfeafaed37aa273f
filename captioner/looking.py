"""From a photo to what its caption rests on: the step that `attend`, the pages and the app share."""

from dataclasses import dataclass
from typing import Any

from PIL import Image

from .attribution import Attribution, AttributionError, attribute
from .evaluation import generation_options
from .images import open_image
from .model import Captioner
from .overlay import seen_part
from .processor import CaptionerProcessor
from .settings import GenerationSettings


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
    generation: GenerationSettings | None = None,
) -> Look:
    """Look into a caption of one image, context or both.

    Args:
        image: what `open_image` reads, or None.
        caption: None: the captioner's own, found by `generation`.

    Raises:
        ImageError, AttributionError: an image that cannot be read, a modality that the captioner has
            no encoder for, a caption without words.
    """
    given = {"image": image, "context": context}
    foreign = [name for name, value in given.items() if value is not None and name not in model.config.modalities]
    if foreign:
        raise AttributionError(f"this captioner has no encoder for {foreign}; it takes {model.config.modalities}")
    photo = None if image is None else open_image(image)
    if caption is None:
        caption = search(model, processor, photo, context, generation or GenerationSettings())[0]
    found = attribute(model, processor, caption, photo, context)
    return Look(found, None if photo is None else seen_part(photo, processor.image_settings))


def search(
    model: Captioner,
    processor: CaptionerProcessor,
    image: Any,
    context: str | None,
    generation: GenerationSettings,
) -> list[list[int]]:
    """Ids of the `num_return_sequences` captions of one sample, best first."""
    batch = processor(**{k: [v] for k, v in {"images": image, "context": context}.items() if v is not None})
    batch = {name: value.to(model.device) for name, value in batch.items()}
    return model.generate(**batch, **generation_options(generation, model)).tolist()
