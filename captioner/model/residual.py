"""Residual connections in the two norm orders; knows nothing about what the sub-layer does."""

from collections.abc import Callable

from torch import Tensor, nn

from .configuration import DecoderConfig
from .norms import norm


class PreNorm(nn.Module):
    """x + f(LN x)."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.norm = norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """Add one sub-layer to the stream x (N, T, D)."""
        return x + self.dropout(sublayer(self.norm(x)))


class PostNorm(PreNorm):
    """LN(x + f(x))."""

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """Add one sub-layer to the stream x (N, T, D)."""
        return self.norm(x + self.dropout(sublayer(x)))


RESIDUALS = {"pre": PreNorm, "post": PostNorm}


def residual(config: DecoderConfig) -> PreNorm:
    """A residual connection in the block's norm order."""
    return RESIDUALS[config.norm_position](config)
