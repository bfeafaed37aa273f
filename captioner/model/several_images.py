"""Samples of one image or several: opened, put in one tensor, each in its place. Letters: I images of a sample."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def each(function: Callable[[Any], Any], image: Any) -> Any:
    """Apply a function to an image or to every image of a list; what is None stays None."""
    if isinstance(image, list | tuple):
        return [each(function, one) for one in image]
    return None if image is None else function(image)


def as_list(image: Any) -> list[Any]:
    """The images of a sample; none of one that has no image."""
    return [] if image is None else list(image) if isinstance(image, list | tuple) else [image]


def stack(samples: Sequence[Any], blank: Tensor) -> tuple[Tensor, Tensor]:
    """Tensors of B samples, each one, None or a list of them → a batch, and which of its images are there.

    Args:
        blank: what stands where there is no image, of the shape of all.

    Returns:
        (B, …) and (B,) bool where no sample has more than one image; else (B, I, …) and (B, I).
    """
    groups = [as_list(sample) for sample in samples]
    most = max([1, *map(len, groups)])
    batch, mask = blank.repeat(len(groups), most, *[1] * blank.ndim), torch.zeros(len(groups), most, dtype=torch.bool)
    for row, group in enumerate(groups):
        for place, image in enumerate(group):
            if image is not None:
                batch[row, place], mask[row, place] = image, True
    return (batch, mask) if most > 1 else (batch[:, 0], mask[:, 0])
