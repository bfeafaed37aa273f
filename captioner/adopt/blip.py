"""BLIP: `BlipForConditionalGeneration` of transformers, a ViT before a BERT that attends to it.

Knows what transformers calls its parts; what the text decoder's weights are called is said in `language_models.py`.
"""

from copy import deepcopy
from typing import Any

from torch import Tensor, nn
from transformers import BlipForConditionalGeneration

from .architecture import Architecture, ForeignCaptioner, ImageFamily
from .language_models import BERT, module
from .pretrained import whole_model

NAME = BlipForConditionalGeneration.__name__


def _image_weights(vit: nn.Module) -> dict[str, Tensor]:
    """Queries, keys and values lie side by side as timm's do."""
    weights = {
        "cls_token": vit.embeddings.class_embedding,
        "pos_embed": vit.embeddings.position_embedding,
        **module("patch_embed.proj", vit.embeddings.patch_embedding),
        **module("norm", vit.post_layernorm),
    }
    for i, layer in enumerate(vit.encoder.layers):
        weights |= module(f"blocks.{i}.attn.qkv", layer.self_attn.qkv)
        weights |= module(f"blocks.{i}.attn.proj", layer.self_attn.projection)
        weights |= module(f"blocks.{i}.norm1", layer.layer_norm1)
        weights |= module(f"blocks.{i}.norm2", layer.layer_norm2)
        weights |= module(f"blocks.{i}.mlp.fc1", layer.mlp.fc1)
        weights |= module(f"blocks.{i}.mlp.fc2", layer.mlp.fc2)
    return weights


IMAGE_FAMILY = ImageFamily("vit_base_patch16_224", _image_weights)


def _refusal(config: dict[str, Any]) -> str | None:
    """Its model type has other heads too."""
    name, *_ = config.get("architectures") or [NAME]
    return None if name == NAME else f"is a {name}"


def _load(source: str, **options: Any) -> ForeignCaptioner:
    """Starts with bos, ends with sep; the decoder's keys and values are as wide as the image encoder's states."""
    model = whole_model(BlipForConditionalGeneration, source, strict=False, **options)
    text, width = model.config.text_config, model.config.vision_config.hidden_size
    generation = deepcopy(model.text_decoder.generation_config)
    generation.bos_token_id = generation.decoder_start_token_id = text.bos_token_id
    generation.eos_token_id, generation.pad_token_id = text.sep_token_id, text.pad_token_id
    memory_width = None if width == text.hidden_size else width
    return ForeignCaptioner(
        IMAGE_FAMILY, model.vision_model, BERT, model.text_decoder, generation, memory_width=memory_width
    )


BLIP = Architecture(NAME, _refusal, _load)
