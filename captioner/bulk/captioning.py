"""Items to captions, streaming in order: read in workers, searched in batches, a reason where an image is bad.

Knows nothing about files to write, processes or the command line. `caption` is the same for use as a library.
"""

import logging
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, count, islice, repeat
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor

from ..base import GenerationSettings
from ..cpu import for_search
from ..evaluation import search_options
from ..model import Captioner, CaptionerProcessor, as_list, stack
from ..retrieval import Retriever, check_has_context, join
from ..search import search
from .contexts import Context
from .inputs import Item, find_inputs
from .reading import MAX_PIXELS, Reader, Reading
from .workers import read_ahead

logger = logging.getLogger(__name__)

WINDOW = 4  # batches that are sorted together when contexts differ in length


class CaptioningError(ValueError):
    """A captioner that cannot do what was asked; the message says what would work."""


@dataclass
class Captioning:
    """How to caption: the captioner, the search, and what is read beside each image.

    Args:
        context: what the captioner reads beside each image, or None.
        batch_size: images at a time; halved whenever memory does not suffice.
        workers: processes that read images.
        seed: with an image's name, the seed of its samples.
        scores: whether records say how likely a caption is.
        max_pixels: images with more are refused.
        reads_only: whether there are contexts alone and no images.
        retriever: whose captions of images that look alike follow the context, or None.
        layout: of the decoder's matrices on a CPU, one of `layouts.LAYOUTS`.
        waited: seconds in which it had no images to work on.

    Raises:
        CaptioningError: a captioner without an image encoder, or a context that it cannot read.
        LayoutError: an unknown layout.
        StoreError: a retriever, but a captioner that does not read.
    """

    model: Captioner
    processor: CaptionerProcessor
    generation: GenerationSettings
    context: Context | None = None
    batch_size: int = 16
    workers: int = 0
    seed: int = 0
    scores: bool = False
    max_pixels: int = MAX_PIXELS
    reads_only: bool = False
    retriever: Retriever | None = None
    layout: str = "auto"
    waited: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        modalities = self.model.config.modalities
        if "image" not in modalities and not self.reads_only:
            remedy = "give texts with `--context-file` in place of images"
            raise CaptioningError(f"this captioner reads {modalities} only; it cannot caption images; {remedy}")
        if self.context and "context" not in modalities:
            raise CaptioningError("`--context` was given, but this captioner has no context encoder; leave it out")
        if self.retriever is not None:
            check_has_context(self.model)
        self.options = search_options(self.generation, self.model, self.processor)
        self.model = for_search(self.model, self.batch_size, self.options.captions, self.layout)

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
        look = self.retriever and self.retriever.encoder.settings
        reader = Reader(self.processor.image_settings, self.context, self.max_pixels, look, self.processor.further)
        readings = read_ahead(reader, _batches(items, self.batch_size), self.workers)
        varies = bool(self.retriever or (self.context and self.context.varies))
        while not stop() and (window := self._next(readings, WINDOW if varies else 1)):
            results = self._caption([reading for reading in window if reading.error is None])
            for reading in window:
                result = {"error": reading.error} if reading.error is not None else next(results)
                own = {"context": reading.context} if varies and reading.context else {}
                yield reading.item, {"image": reading.item.name, **result, **own}

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
        model, processor = self.model, self.processor
        self._retrieve([reading for reading in readings if reading.look is not None])
        batch = self._pixels([reading.pixels for reading in readings])
        beside = {"context": [reading.context for reading in readings]}
        beside |= {name: [reading.further.get(name) for reading in readings] for name in processor.further}
        if given := {name: own for name, own in beside.items() if any(value is not None for value in own)}:
            made = processor(**given).items()
            batch |= {
                name: value.to(model.device, model.dtype if value.is_floating_point() else None) for name, value in made
            }
        seeds = [seed_of(reading.item.name, self.seed) for reading in readings]
        found = search(model, model.encode(**batch), self.options, seeds=seeds)
        return [self._record(captions) for captions in found]

    def _pixels(self, images: Sequence[Tensor | list[Tensor] | None]) -> dict[str, Tensor]:
        """The encoders' inputs for images (3, H, W), where there are any: `pixel_values`, `image_mask`."""
        images = [self.processor.cut_images(own) for own in images]
        first = next((image for own in images for image in as_list(own)), None)
        if first is None:
            return {}
        pixels, there = stack(images, torch.zeros_like(first))
        pixels = pixels.to(self.model.device, non_blocking=True)
        batch = {"pixel_values": self.processor.image_settings.normalize(pixels).to(self.model.dtype)}
        return batch if there.all() else batch | {"image_mask": there.to(self.model.device)}

    def _retrieve(self, readings: Sequence[Reading]) -> None:
        """Let contexts go on with the captions of images that look alike."""
        if readings:
            looks, names = torch.stack([one.look for one in readings]), [one.item.name for one in readings]
            for reading, captions in zip(readings, self.retriever(looks, names), strict=True):
                reading.context, reading.look = join(reading.context, captions), None

    def _record(self, found: Sequence[Any]) -> dict[str, Any]:
        if not found:
            return {"error": "no caption holds all forced words; allow more tokens, or forbid less"}
        texts, scores = [self.processor.decode(one.ids) for one in found], [round(one.score, 4) for one in found]
        several = len(texts) > 1
        record = {"caption": texts[0], **({"captions": texts} if several else {})}
        return record | ({"scores": scores} if several else {"score": scores[0]}) if self.scores else record


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def seed_of(name: str, seed: int) -> int:
    """A seed that is an image's own, wherever and whenever it is captioned."""
    return zlib.crc32(f"{seed} {name}".encode("utf-8", "surrogateescape"))


def caption(
    images: Any,
    model: str | Path | tuple[Captioner, CaptionerProcessor] | None = None,
    context: str | Iterable[str | None] | None = None,
    further: Mapping[str, Iterable[Any]] | None = None,
    beams: int = 3,
    batch_size: int = 16,
    workers: int = 0,
    scores: bool = False,
    seed: int = 0,
    retrieve: str | Path | None = None,
    neighbours: int = 4,
    **generation: Any,
) -> Iterator[dict[str, Any]]:
    """Caption images as they come, with the code of the `captioner caption` command.

    Args:
        images: a path (of a file, folder, glob, list, table or repository), or a list or iterator, even without end,
            of whatever `open_image` reads: paths, Pillow images, bytes, arrays, tensors. None: contexts are read alone.
        model: a name, path or Hub repository for `load`, or what `load` returned; None: the default captioner.
        context: one text or template for all images, or a text or None per image.
        further: further modalities by name, for each image what `ModalityInput.read` takes, or None.
        beams: beams of the search; 1 is greedy.
        batch_size: images at a time.
        workers: processes that read images.
        scores: whether records say how likely each caption is.
        seed: of samples.
        retrieve: a caption store; captions of images in it that look alike follow each context.
        neighbours: how many.
        generation: the other keys of `GenerationSettings`: `max_new_tokens`, `num_return_sequences`, `do_sample`, …

    Yields:
        A dict per image in order: `image` (its path, or its place) and `caption`, or `error`; `captions` with
        `num_return_sequences`, `score` or `scores` on request.

    Raises:
        ValueError: options that cannot be used, or a captioner that cannot be loaded.
    """
    from ..adopt import load

    loaded = model if isinstance(model, tuple) else load(model)
    reads_only = images is None
    if reads_only:
        nothing = None if further else []
        context = [context] if isinstance(context, str) else context or nothing
        images = repeat(None)
    items = find_inputs([str(images)]) if isinstance(images, str | Path) else map(_item, count(), images)
    own = dict(further or {})
    if context is not None and not isinstance(context, str):
        own["context"], context = context, "{context}"
    made = Context(context, columns=own)
    for name, values in own.items():
        items = map(partial(_with_column, name), items, values)
    options = GenerationSettings(num_beams=beams, **generation)
    retriever = retrieve and Retriever(retrieve, neighbours, device=loaded[0].device)
    job = Captioning(
        *loaded, options, made, batch_size, workers, seed, scores, reads_only=reads_only, retriever=retriever
    )
    return (record for _, record in job.run(items))


def _item(index: int, image: Any) -> Item:
    if isinstance(image, str | Path):
        return Item(str(image), str(image), str(image), index=index)
    return Item(str(index), image, index=index)


def _with_column(name: str, item: Item, value: Any) -> Item:
    return replace(item, columns={**item.columns, name: value})
