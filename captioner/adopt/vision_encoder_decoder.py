"""ViT-GPT2 and its like: `VisionEncoderDecoderModel` of transformers, a ViT or DeiT before GPT-2, BERT or RoBERTa.

Knows what transformers calls their parts; what a text decoder's weights are called is said in `language_models.py`.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import VisionEncoderDecoderModel

from .architecture import Architecture, ForeignCaptioner, ImageFamily
from .language_models import FAMILIES, module
from .pretrained import whole_model


def _vit_weights(vit: nn.Module) -> dict[str, Tensor]:
    weights = {
        "cls_token": vit.embeddings.cls_token,
        "pos_embed": vit.embeddings.position_embeddings,
        **module("patch_embed.proj", vit.embeddings.patch_embeddings.projection),
        **module("norm", vit.layernorm),
    }
    for i, layer in enumerate(vit.layers):
        attention = layer.attention
        weights |= _side_by_side(f"blocks.{i}.attn.qkv", attention.q_proj, attention.k_proj, attention.v_proj)
        weights |= module(f"blocks.{i}.attn.proj", attention.o_proj)
        weights |= module(f"blocks.{i}.norm1", layer.layernorm_before)
        weights |= module(f"blocks.{i}.norm2", layer.layernorm_after)
        weights |= module(f"blocks.{i}.mlp.fc1", layer.mlp.fc1)
        weights |= module(f"blocks.{i}.mlp.fc2", layer.mlp.fc2)
    return weights


def _deit_weights(deit: nn.Module) -> dict[str, Tensor]:
    """A ViT with one more token, for distillation."""
    return {**_vit_weights(deit), "dist_token": deit.embeddings.distillation_token}


def _side_by_side(name: str, *parts: nn.Linear) -> dict[str, Tensor]:
    weights = {f"{name}.weight": torch.cat([part.weight for part in parts])}
    if parts[0].bias is not None:
        weights[f"{name}.bias"] = torch.cat([part.bias for part in parts])
    return weights


IMAGE_FAMILIES = {
    "deit": ImageFamily("deit_base_distilled_patch16_224", _deit_weights),
    "vit": ImageFamily("vit_base_patch16_224", _vit_weights),
}
DECODERS = sorted(name for name, family in FAMILIES.items() if family.cross_attention is not None)


def _refusal(config: dict[str, Any]) -> str | None:
    encoder, decoder = (config[part]["model_type"] for part in ("encoder", "decoder"))
    return None if encoder in IMAGE_FAMILIES and decoder in DECODERS else f"pairs {encoder!r} with {decoder!r}"


def _load(source: str, **options: Any) -> ForeignCaptioner:
    """Special tokens may stand in any of three places; the first that names one is the one that `generate` asks."""
    model = whole_model(VisionEncoderDecoderModel, source, strict=False, **options)
    generation = deepcopy(model.generation_config)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
        places = (generation, model.config, model.config.decoder)
        values = (getattr(place, name, None) for place in places)
        setattr(generation, name, next((value for value in values if value is not None), None))
    return ForeignCaptioner(
        IMAGE_FAMILIES[model.config.encoder.model_type],
        model.encoder,
        FAMILIES[model.config.decoder.model_type],
        model.decoder,
        generation,
        projection=getattr(model, "enc_to_dec_proj", None),
    )


VISION_ENCODER_DECODER = Architecture(
    f"VisionEncoderDecoderModel (encoder: {' or '.join(IMAGE_FAMILIES)}; decoder: {' or '.join(DECODERS)})",
    _refusal,
    _load,
)
