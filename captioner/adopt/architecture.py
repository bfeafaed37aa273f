"""What the captioners of every foreign architecture are described by, so that one translation serves all.

Knows nothing about any of them: each has a file of its own, and `foreign.py` has the list.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

from .language_models import Family

ACTIVATIONS = {  # of transformers → of timm
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
}


class ForeignError(ValueError):
    """A captioner of another architecture that cannot be taken over; the message says what can."""


class ImageFamily(NamedTuple):
    """How one family of image encoders becomes a timm model.

    Args:
        name: the timm model whose shape is overridden.
        weights: an encoder → its weights under timm's names.
    """

    name: str
    weights: Callable[[nn.Module], dict[str, Tensor]]

    def configuration(self, source: PreTrainedConfig) -> dict[str, Any]:
        """The shape, as in `CaptionerConfig.image_encoder`."""
        if source.hidden_act not in ACTIVATIONS:
            raise ForeignError(
                f"`hidden_act` of the image encoder must be one of {sorted(ACTIVATIONS)}, but is {source.hidden_act!r}"
            )
        return {
            "name": self.name,
            "image_size": source.image_size,
            "patch_size": source.patch_size,
            "embed_dim": source.hidden_size,
            "depth": source.num_hidden_layers,
            "num_heads": source.num_attention_heads,
            "mlp_ratio": source.intermediate_size / source.hidden_size,
            "qkv_bias": getattr(source, "qkv_bias", True),
            "act_layer": ACTIVATIONS[source.hidden_act],
            "norm_eps": source.layer_norm_eps,
        }


@dataclass(frozen=True)
class ForeignCaptioner:
    """A captioner as transformers has loaded it, taken apart.

    Args:
        image_family, encoder: the image encoder and how it is translated.
        family, decoder: the text decoder and how it is translated.
        generation: how captions are searched for, the special tokens included.
        projection: between their widths, where the architecture has one.
        memory_width: of what the decoder attends to, where that is not the decoder's own width.
    """

    image_family: ImageFamily
    encoder: PreTrainedModel
    family: Family
    decoder: PreTrainedModel
    generation: GenerationConfig
    projection: nn.Linear | None = None
    memory_width: int | None = None


class Architecture(NamedTuple):
    """How the captioners of one architecture are taken over.

    Args:
        supported: which of them, in words.
        refusal: a `config.json` → what about it cannot be taken over, in words; None where all can.
        load: a directory or a Hub repository, and keywords of `from_pretrained` → what is there.
    """

    supported: str
    refusal: Callable[[dict[str, Any]], str | None]
    load: Callable[..., ForeignCaptioner]
