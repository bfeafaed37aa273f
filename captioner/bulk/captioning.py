"""Items to captions, streaming in order: read in workers, searched in batches, a reason where an image is bad.

Knows nothing about files to write, processes or the command line.
"""

import logging
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor

from ..cpu import prepared
from ..model import Captioner, CaptionerProcessor, as_list, stack
from ..retrieval import Retriever, check_has_context, join
from ..search import Found, search, search_options
from .inputs import Item
from .options import CaptioningOptions
from .reading import Reader, Reading
from .workers import read_ahead

logger = logging.getLogger(__name__)

WINDOW = 4  # batches that are sorted together when contexts differ in length


class CaptioningError(ValueError):
    """A captioner that cannot do what was asked; the message says what would work."""


class Captioning:
    """Captions items with one captioner.

    Args:
        model: moved to the device on which it works.
        options: how it captions.
        retriever: whose captions of images that look alike follow the context, or None.

    Attributes:
        batch_size: images at a time from now on.
        waited: seconds in which it had no images to work on.

    Raises:
        CaptioningError: a captioner without an image encoder, or a context that it cannot read.
        LayoutError: an unknown layout.
        SearchError: a search that cannot be made.
        StoreError: a retriever, but a captioner that does not read.
    """

    def __init__(
        self,
        model: Captioner,
        processor: CaptionerProcessor,
        options: CaptioningOptions,
        retriever: Retriever | None = None,
    ):
        _check(model, options)
        if retriever is not None:
            check_has_context(model)
        self.processor, self.options, self.retriever = processor, options, retriever
        self.search_options = search_options(options.generation, model, processor)
        self.model = prepared(model, options.batch_size, self.search_options.captions, options.layout)
        self.batch_size, self.waited = options.batch_size, 0.0

    def run(
        self, items: Iterable[Item], stop: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[Item, dict[str, Any]]]:
        """Caption items in their order.

        Args:
            items: may be an iterator without end; workers read a few batches ahead.
            stop: asked before each batch.

        Yields:
            An item without its image, and its record: `image` (the name), then `caption` (and `captions` where
            several were asked for, `score` or `scores`, `context` where each image has its own), or `error`.
        """
        readings = read_ahead(self._reader(), _batches(items, self.batch_size), self.options.workers)
        varies = self.retriever is not None or self.options.context.varies
        while not stop() and (window := self._next(readings, WINDOW if varies else 1)):
            results = self._caption([reading for reading in window if reading.error is None])
            for reading in window:
                result = {"error": reading.error} if reading.error is not None else next(results)
                own = {"context": reading.context} if varies and reading.context else {}
                yield reading.item, {"image": reading.item.name, **result, **own}

    def _reader(self) -> Reader:
        return Reader(
            self.processor.image_settings,
            self.options.context,
            self.options.max_pixels or self.processor.max_pixels,
            None if self.retriever is None else self.retriever.encoder.settings,
            self.processor.further,
        )

    def _next(self, readings: Iterator[list[Reading]], batches: int) -> list[Reading]:
        """A few batches, and how long they were waited for."""
        began = time.monotonic()
        window = list(chain.from_iterable(islice(readings, batches)))
        self.waited += time.monotonic() - began
        return window

    def _caption(self, readings: Sequence[Reading]) -> Iterator[dict[str, Any]]:
        """Search in batches of contexts of similar length; results in the order of the readings."""
        order = sorted(range(len(readings)), key=lambda i: len(readings[i].context or ""))
        results: dict[int, dict[str, Any]] = {}
        while len(results) < len(order):
            chosen = order[len(results) : len(results) + self.batch_size]
            found = self._try([readings[i] for i in chosen])
            results.update(zip(chosen[: len(found)], found, strict=True))
        return (results[i] for i in range(len(order)))

    def _try(self, readings: Sequence[Reading]) -> list[dict[str, Any]]:
        """A batch, or nothing and from now on half a batch; an image that does not fit alone is given up."""
        try:
            return self._search(readings)
        except (RuntimeError, MemoryError) as error:
            if not isinstance(error, torch.OutOfMemoryError | MemoryError) and not should_reduce_batch_size(error):
                raise
        clear_device_cache(garbage_collection=True)
        if len(readings) == 1:
            return [{"error": "out of memory, though it was captioned alone"}]
        self.batch_size = len(readings) // 2
        logger.warning("out of memory with %d images at a time; going on with %d", len(readings), self.batch_size)
        return []

    @torch.inference_mode()
    def _search(self, readings: Sequence[Reading]) -> list[dict[str, Any]]:
        """The captions of one batch."""
        self._retrieve([reading for reading in readings if reading.store_pixels is not None])
        batch = self._pixels([reading.pixels for reading in readings])
        batch.update(self._beside(readings))
        seeds = [seed_of(reading.item.name, self.options.seed) for reading in readings]
        found = search(self.model, self.model.encode(**batch), self.search_options, seeds=seeds)
        return [self._record(captions) for captions in found]

    def _beside(self, readings: Sequence[Reading]) -> dict[str, Tensor]:
        """The encoders' inputs for contexts and further modalities, where there are any."""
        contexts = [reading.context for reading in readings]
        further = {name: [reading.further.get(name) for reading in readings] for name in self.processor.further}
        beside = {"context": contexts, **further}
        given = {name: own for name, own in beside.items() if any(value is not None for value in own)}
        device, dtype = self.model.device, self.model.dtype
        made = self.processor(**given).items() if given else ()
        return {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in made}

    def _pixels(self, images: Sequence[Tensor | list[Tensor] | None]) -> dict[str, Tensor]:
        """The encoders' inputs for images (3, H, W), where there are any: `pixel_values`, `image_mask`."""
        images = [self.processor.cut_images(own) for own in images]
        first = next((image for own in images for image in as_list(own)), None)
        if first is None:
            return {}
        pixels, present = stack(images, torch.zeros_like(first))
        pixels = pixels.to(self.model.device, non_blocking=True)
        batch = {"pixel_values": self.processor.image_settings.normalize(pixels).to(self.model.dtype)}
        return batch if present.all() else {**batch, "image_mask": present.to(self.model.device)}

    def _retrieve(self, readings: Sequence[Reading]) -> None:
        """Let contexts go on with the captions of images that look alike."""
        if readings:
            pixels, names = torch.stack([one.store_pixels for one in readings]), [one.item.name for one in readings]
            for reading, captions in zip(readings, self.retriever(pixels, names), strict=True):
                reading.context, reading.store_pixels = join(reading.context, captions), None

    def _record(self, found: Sequence[Found]) -> dict[str, Any]:
        if not found:
            return {"error": "no caption holds all forced words; allow more tokens, or forbid less"}
        texts, scores = [self.processor.decode(one.ids) for one in found], [round(one.score, 4) for one in found]
        several = len(texts) > 1
        record = {"caption": texts[0], **({"captions": texts} if several else {})}
        if self.options.scores:
            record.update({"scores": scores} if several else {"score": scores[0]})
        return record


def _check(model: Captioner, options: CaptioningOptions) -> None:
    modalities = model.config.modalities
    if "image" not in modalities and not options.reads_only:
        remedy = "give texts with `--context-file` in place of images"
        raise CaptioningError(f"this captioner reads {modalities} only; it cannot caption images; {remedy}")
    if options.context and "context" not in modalities:
        raise CaptioningError("`--context` was given, but this captioner has no context encoder; leave it out")


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def seed_of(name: str, seed: int) -> int:
    """A seed that is an image's own, wherever and whenever it is captioned."""
    return zlib.crc32(f"{seed} {name}".encode("utf-8", "surrogateescape"))
