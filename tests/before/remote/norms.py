"""The kinds of norm that a decoder may have; knows nothing about where they stand."""

from torch import Tensor, nn
from torch.nn import functional as F

from .configuration import DecoderConfig


class RMSNorm(nn.RMSNorm):
    """x / √(mean x² + ε) in float32, cast back, then scaled (arXiv 1910.07467; the order of Llama's half precision)."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape (…, width)."""
        return F.rms_norm(x.float(), self.normalized_shape, eps=self.eps).to(x.dtype) * self.weight


NORMS = {"layer": nn.LayerNorm, "rms": RMSNorm}


def norm(config: DecoderConfig, width: int | None = None) -> nn.Module:
    """A norm of the decoder's kind over `width` numbers; None: D."""
    return NORMS[config.norm](config.hidden_size if width is None else width, eps=config.norm_eps)
