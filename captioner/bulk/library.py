"""`captioner.caption`: what the command `captioner caption` does, for use from Python, on whatever one has at hand.

Turns its arguments into options, items and a captioner; the work is done in `captioning.py`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import count, repeat
from pathlib import Path
from typing import Any

from ..adopt import load
from ..base import GenerationSettings
from ..model import Captioner, CaptionerProcessor, is_one
from ..retrieval import Retriever
from .captioning import Captioning, CaptioningError
from .contexts import Context
from .inputs import Inputs, Item, find_inputs
from .options import CaptioningOptions

MISSING_VALUE = object()


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
        images: a path (of a file, folder, glob, list, table or repository), an image, or a list or iterator, even
            without end, of whatever `open_image` reads: paths, Pillow images, bytes, arrays, tensors. None: contexts
            are read alone.
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
        CaptioningError: other numbers of contexts or further values than of images; of iterators when the first ends.
        ValueError: options that cannot be used, or a captioner that cannot be loaded.
    """
    loaded = model if isinstance(model, tuple) else load(model)
    items, template = _items(images, context, dict(further or {}))
    options = CaptioningOptions(
        GenerationSettings.of(num_beams=beams, **generation), template, batch_size, workers, seed, scores,
        reads_only=images is None,
    )  # fmt: skip
    retriever = Retriever(retrieve, neighbours, device=loaded[0].device) if retrieve else None
    return (record for _, record in Captioning(*loaded, options, retriever).run(items))


def _items(
    images: Any, context: str | Iterable[str | None] | None, columns: dict[str, Iterable[Any]]
) -> tuple[Iterable[Item], Context]:
    """What is captioned, each with its own values of further modalities and of the context, and the context."""
    alone = images is None
    if alone:
        context = [context] if isinstance(context, str) else context or (None if columns else [])
        images = repeat(None)
    elif is_one(images) and not isinstance(images, str | Path):
        images = [images]
    items = find_inputs([str(images)]) if isinstance(images, str | Path) else images
    if context is not None and not isinstance(context, str):
        columns, context = {**columns, "context": context}, "{context}"
    _check_lengths({} if alone else {"images": items}, columns)
    items = items if isinstance(items, Inputs) else map(_item, count(), items)
    for number, (name, values) in enumerate(columns.items()):
        items = _beside(name, items, values, endless=alone and number == 0)
    return items, Context(context, columns=columns)


def _check_lengths(images: dict[str, Any], columns: dict[str, Iterable[Any]]) -> None:
    """Compare what can be counted before any work."""
    for name, values in columns.items():
        if isinstance(values, str | bytes | Path):
            raise CaptioningError(f"`{name}` must have a value for each image, such as a list, but is {values!r}")
    lengths = {name: len(own) for name, own in {**images, **columns}.items() if hasattr(own, "__len__")}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{length} of {name}" for name, length in lengths.items())
        raise CaptioningError(f"there are {found}; give as many of each, None where one has none")


def _beside(name: str, items: Iterable[Item], values: Iterable[Any], endless: bool) -> Iterator[Item]:
    """Items with a value each.

    Args:
        endless: whether there are as many items as values.
    """
    values, number = iter(values), 0
    for number, item in enumerate(items):
        value = next(values, MISSING_VALUE)
        if value is MISSING_VALUE and endless:
            return
        if value is MISSING_VALUE:
            raise CaptioningError(
                f"there are {number} of {name}, but more images; give as many, None where one has none"
            )
        yield replace(item, columns={**item.columns, name: value})
    if next(values, MISSING_VALUE) is not MISSING_VALUE:
        raise CaptioningError(f"there are {number + 1} images, but more of {name}; give as many of each")


def _item(index: int, image: Any) -> Item:
    if isinstance(image, str | Path):
        return Item(str(image), str(image), str(image), index=index)
    return Item(str(index), image, index=index)
