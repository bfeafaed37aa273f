"""How a decoder tells where a token stands: learned vectors added to the stream, or rotated queries and keys.

Both kinds have the same two methods. Shape letters: N, T, D, H as in every file; d, the width of a head.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from .configuration import DecoderConfig

Rotation = tuple[Tensor, Tensor]  # cosines and sines, (T, d) each, or (N, 1, T, d)


def positions_under(mask: Tensor, tokens: int) -> Tensor:
    """Where the last tokens of each row stand, padding on the left not counted: a mask (N, S) → (N, tokens)."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -tokens:]


class LearnedPositions(nn.Embedding):
    """One vector per position, added to the token's."""

    def __init__(self, config: DecoderConfig):
        super().__init__(config.max_positions, config.hidden_size)

    def place(self, x: Tensor, positions: Tensor) -> Tensor:
        """Tokens x (N, T, D) at `positions` (T,) or (N, T) → (N, T, D)."""
        return x + self(positions)

    def rotation(self, x: Tensor, positions: Tensor) -> Rotation | None:
        """Nothing for queries and keys to do."""
        return None


class RotaryPositions(nn.Module):
    """Queries and keys turned by angles that grow with the position ("RoFormer", arXiv 2104.09864).

    Angles are computed anew for each pass: a buffer would be lost where a model is built without memory. Those that
    `rope_parameters` scales are transformers' own; "dynamic" scales only beyond `max_positions`, where no caption goes.
    """

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.frequencies: Callable[[torch.device], tuple[Tensor, float]]
        if config.rope_parameters is None:
            self.frequencies = partial(_plain_frequencies, config.head_dim, config.rope_theta)
        else:
            self.frequencies = partial(ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]], config)

    def place(self, x: Tensor, positions: Tensor) -> Tensor:
        """The stream x (N, T, D) as it is."""
        return x

    def rotation(self, x: Tensor, positions: Tensor) -> Rotation | None:
        """The angles p·f_i of `positions` (T,) or (N, T), twice over i < d/2, computed in float32 → x's dtype."""
        frequencies, factor = self.frequencies(positions.device)
        angles = positions[..., None].float() * frequencies
        if positions.ndim == 2:
            angles = angles[:, None]  # the same for every head
        angles = torch.cat((angles, angles), dim=-1)
        cosines, sines = angles.cos(), angles.sin()
        if factor != 1.0:
            cosines, sines = cosines * factor, sines * factor
        return cosines.to(x.dtype), sines.to(x.dtype)


def _plain_frequencies(head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, float]:
    """θ^(−2i/d) for i < d/2, and 1, the factor of cosines and sines."""
    even = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32)
    return 1.0 / theta ** (even / head_dim), 1.0


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn number i of each head x (N, H, T, d) together with number i + d/2."""
    first, second = x.chunk(2, dim=-1)
    cosines, sines = rotation
    return x * cosines + torch.cat((-second, first), dim=-1) * sines


POSITIONS = {"learned": LearnedPositions, "rotary": RotaryPositions}
