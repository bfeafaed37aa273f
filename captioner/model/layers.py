"""The small layers of a decoder's block: norms, residual connections in the two norm orders, activations.

Each is a choice of `DecoderConfig`; knows nothing about what stands between them. Shapes: N = B·G rows, T tokens, D.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from .configuration import DecoderConfig

FASTER = {"gelu_new": "gelu_pytorch_tanh"}  # of one formula under two names the faster kernel: eight kernels, and one


class RMSNorm(nn.RMSNorm):
    """x / √(mean x² + ε) in float32, cast back, then scaled (arXiv 1910.07467; the order of Llama's half precision)."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape (…, width)."""
        return F.rms_norm(x.float(), self.normalized_shape, eps=self.eps).to(x.dtype) * self.weight


NORMS = {"layer": nn.LayerNorm, "rms": RMSNorm}


def norm(config: DecoderConfig, width: int | None = None) -> nn.Module:
    """A norm of the decoder's kind over `width` numbers; None: D."""
    return NORMS[config.norm](config.hidden_size if width is None else width, eps=config.norm_eps)


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


def activation(name: str) -> nn.Module:
    """The function that transformers calls `name`."""
    return ACT2FN[FASTER.get(name, name)]
