"""Checks what is handed to the metrics: every error names the value, the limit and the remedy.

Knows nothing about any metric.
"""

from collections.abc import Sequence
from typing import Any


def check(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Check that there is one prediction and at least one reference for every image.

    Raises:
        ValueError: no images, unequal lengths, an image without references, or a wrong type.
    """
    check_list("predictions", predictions, "a list of captions")
    check_references(references)
    if len(predictions) != len(references):
        raise ValueError(
            f"`predictions` and `references` must have one entry per image, but have {len(predictions)} and "
            f"{len(references)}; pass one caption and one list of references for each image"
        )
    for position, caption in enumerate(predictions):
        _check_text(f"predictions[{position}]", caption)
    for image, captions in enumerate(references):
        for position, caption in enumerate(captions):
            _check_text(f"references[{image}][{position}]", caption)


def check_references(references: Sequence[Sequence[Any]]) -> None:
    """Check that there are images, each with at least one reference.

    Raises:
        ValueError: no images, an image without references, or a wrong type.
    """
    check_list("references", references, "a list with a list of captions for each image")
    for image, captions in enumerate(references):
        check_list(f"references[{image}]", captions, "a list of captions")


def check_list(name: str, value: Any, kind: str) -> None:
    """Check that `value` is a list (or another sequence, but no text) with something in it.

    Raises:
        ValueError: something else, or an empty list.
    """
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise ValueError(f"`{name}` must be {kind}, but is the {type(value).__name__} {value!r:.60}; put it in a list")
    if not value:
        raise ValueError(f"`{name}` must hold at least one entry, but is empty; leave out images without captions")


def _check_text(name: str, caption: Any) -> None:
    if not isinstance(caption, str):
        raise ValueError(
            f"`{name}` must be a str, but is the {type(caption).__name__} {caption!r:.60}; "
            "decode token ids first and write '' for a missing caption"
        )
