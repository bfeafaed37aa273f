"""How a decoder tells where a token stands: learned vectors added to the stream, or rotated queries and keys.

Both kinds have the same two methods. Shape letters: N, T, D, H as in every file; d, the width of a head.
"""

import torch
from torch import Tensor, nn

from .configuration import DecoderConfig

Rotation = tuple[Tensor, Tensor]  # cosines and sines, (T, d) each


class LearnedPositions(nn.Embedding):
    """One vector per position, added to the token's."""

    def __init__(self, config: DecoderConfig):
        super().__init__(config.max_positions, config.hidden_size)

    def place(self, x: Tensor, positions: Tensor) -> Tensor:
        """Tokens x (N, T, D) at `positions` (T,) → (N, T, D)."""
        return x + self(positions)

    def rotation(self, x: Tensor, positions: Tensor) -> Rotation | None:
        """Nothing for queries and keys to do."""
        return None


class RotaryPositions(nn.Module):
    """Queries and keys turned by angles that grow with the position ("RoFormer", arXiv 2104.09864).

    Angles are computed anew for each pass: a buffer would be lost where a model is built without memory.
    """

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.head_dim = config.head_dim
        self.theta = config.rope_theta

    def place(self, x: Tensor, positions: Tensor) -> Tensor:
        """The stream x (N, T, D) as it is."""
        return x

    def rotation(self, x: Tensor, positions: Tensor) -> Rotation | None:
        """The angles p·θ^(−2i/d) of `positions` (T,), twice over i < d/2, computed in float32 → x's dtype."""
        even = torch.arange(0, self.head_dim, 2, device=positions.device, dtype=torch.float32)
        angles = positions[:, None].float() * (1.0 / self.theta ** (even / self.head_dim))
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn number i of each head x (N, H, T, d) together with number i + d/2."""
    first, second = x.chunk(2, dim=-1)
    cosines, sines = rotation
    return x * cosines + torch.cat((-second, first), dim=-1) * sines


POSITIONS = {"learned": LearnedPositions, "rotary": RotaryPositions}
