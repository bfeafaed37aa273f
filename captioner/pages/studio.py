"""A captioner as the app uses it: what was given, with a modality taken away or shuffled; captions as they come; looks.

Knows nothing about pages. One caller at a time: looking watches the captioner's attention while it runs.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from threading import Lock, Thread
from typing import Any, TypedDict

import torch
from PIL import Image
from torch import Tensor
from transformers import TextIteratorStreamer

from ..adopt import load
from ..explain import AttributionError, Look, generated_ids, look
from ..model import FeatureError, ImageError, open_image

TILES = 4  # of a shuffled image, along each side
AS_GIVEN = "as given"


class Given(TypedDict):
    """What the captioner gets of one sample: each a value or None; further modalities by name."""

    image: Image.Image | None
    context: str | None
    further: dict[str, Tensor]


class StudioError(ValueError):
    """Something that cannot be captioned; the message is for the person at the page."""


def _shuffled_image(image: Image.Image) -> Image.Image:
    """The tiles of an image in another order, always the same."""
    width, height = (side // TILES for side in image.size)
    corners = [(width * (i % TILES), height * (i // TILES)) for i in range(TILES * TILES)]
    mixed = image.copy()
    for old, new in zip(corners, random.Random(0).sample(corners, len(corners)), strict=True):
        mixed.paste(image.crop((*old, old[0] + width, old[1] + height)), new)
    return mixed


def _shuffled_text(text: str) -> str:
    """The words of a text in another order, always the same."""
    words = text.split()
    return " ".join(random.Random(0).sample(words, len(words)))


def _shuffled_features(features: Tensor) -> Tensor:
    """Features (S, …) in another order, always the same."""
    return features[torch.randperm(len(features), generator=torch.Generator().manual_seed(0))]


def treatments(modality: str) -> dict[str, Callable[[Any], Any]]:
    """What may be done to a modality."""
    shuffled = {"image": _shuffled_image, "context": _shuffled_text}.get(modality, _shuffled_features)
    return {AS_GIVEN: lambda value: value, "taken away": lambda value: None, "shuffled": shuffled}


class Studio:
    """One captioner for everyone at the page.

    Args:
        name: what `load` takes.
    """

    def __init__(self, name: str):
        self.name = name
        self.model, self.processor = load(name)
        self.lock = Lock()

    @property
    def modalities(self) -> list[str]:
        """What it takes."""
        return self.model.config.modalities

    @property
    def mode(self) -> str:
        """How it conditions."""
        config = self.model.config
        return " · ".join(part for part in (config.conditioning, config.fusion) if part)

    def given(
        self, file: str | None, text: str | None, treated: Mapping[str, str], features: Mapping[str, str | None] = {}
    ) -> Given:
        """All modalities as the captioner gets them.

        Args:
            file: path of an image, or None.
            treated: modality → a key of its `treatments`; as given where it is not named.
            features: further modality → path of its file, or None.

        Raises:
            StudioError: a file that cannot be read, or nothing left to caption.
        """
        try:
            image = None if file is None else open_image(file)
        except ImageError as error:
            reason = str(error).rpartition("': ")[2]
            raise StudioError(f"This file cannot be read: {reason}. Try a JPEG, PNG or WebP.") from error
        values = {"image": image, "context": (text or "").strip() or None, **self._features(features)}
        own = {name: values[name] for name in self.modalities if values.get(name) is not None}
        treated = {name: treatments(name)[treated.get(name, AS_GIVEN)](value) for name, value in own.items()}
        left = {name: value for name, value in treated.items() if value is not None}
        if not left:
            raise StudioError(f"There is nothing to caption: give one of: {', '.join(self.modalities)}.")
        return {"image": left.pop("image", None), "context": left.pop("context", None), "further": left}

    def _features(self, files: Mapping[str, str | None]) -> dict[str, Tensor]:
        """Files of further modalities."""
        try:
            return {name: self.processor.further[name].read(file, name) for name, file in files.items() if file}
        except FeatureError as error:
            raise StudioError(f"This file cannot be read: {error}.") from error

    def captions(self, given: Given, beams: int, count: int) -> Iterator[list[str]]:
        """The captions so far: one growing word by word where the search is greedy, else one after the other."""
        if beams == 1:
            yield from self._greedy(given)
            return
        with self.lock:
            found = generated_ids(
                self.model, self.processor, **given, num_beams=beams, num_return_sequences=min(count, beams)
            )
        captions = self.processor.batch_decode(found)
        yield from (captions[:i] for i in range(1, len(captions) + 1))

    def _greedy(self, given: Given) -> Iterator[list[str]]:
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)

        def work() -> None:
            try:
                with self.lock:
                    generated_ids(self.model, self.processor, **given, num_beams=1, streamer=streamer)
            finally:
                streamer.end()

        Thread(target=work, daemon=True).start()
        text = ""
        for piece in streamer:
            text += piece
            if text.strip():
                yield [text.strip()]

    def look(self, given: Given, caption: str) -> Look:
        """What a caption rests on.

        Raises:
            StudioError: a caption without words, or one that cannot be looked into.
        """
        if not caption.strip():
            raise StudioError("The captioner said nothing, so there is nothing to look into.")
        try:
            with self.lock:
                return look(self.model, self.processor, **given, caption=caption)
        except AttributionError as error:
            raise StudioError(f"This caption cannot be looked into: {error}.") from error
