"""The few largest of many numbers, in two stages on a CPU, where PyTorch's `topk` goes through all of them in pairs."""

import torch
from torch import Tensor

RUN = 64  # numbers that are searched together


def largest(x: Tensor, count: int, run: int = RUN) -> tuple[Tensor, Tensor]:
    """`x.topk(count)` over the last axis, (…, V) → (…, count) each: values and places.

    Args:
        run: x is cut into runs of so many, and only the runs with the highest maxima are searched.
    """
    runs = x.shape[-1] // run
    if runs < 4 * count or x.device.type != "cpu":
        return x.topk(count, dim=-1)
    cut = x[..., : runs * run].unflatten(-1, (runs, run))
    best = cut.amax(-1).topk(count, dim=-1).indices[..., None].expand(*x.shape[:-1], count, run)
    searched = torch.cat([cut.gather(-2, best).flatten(-2), x[..., runs * run :]], dim=-1)
    values, found = searched.topk(count, dim=-1)
    places = (best * run + torch.arange(run)).flatten(-2)
    rest = torch.arange(runs * run, x.shape[-1]).expand(*x.shape[:-1], -1)
    return values, torch.cat([places, rest], dim=-1).gather(-1, found)
