"""Captioners of other architectures as ours: shape, weights and processor of ViT-GPT2 and its like, and of BLIP.

Knows what transformers saves; what a text decoder's weights are called is said in `families.py`. Each architecture is
loaded by transformers itself and then translated in memory, so old and sharded files need no care here.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    BlipForConditionalGeneration,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    VisionEncoderDecoderModel,
)

from ..base import one_line
from ..model import Captioner, CaptionerConfig, CaptionerProcessor, DecoderConfig, ImageSettings
from .families import BERT, FAMILIES, Family, module

INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL's numbers, which transformers saves
ACTIVATIONS = {  # of transformers → of timm
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
}
MAX_CAPTION_LENGTH = 40


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


def _blip_image_weights(vit: nn.Module) -> dict[str, Tensor]:
    """BLIP's queries, keys and values lie side by side as timm's do."""
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


def _side_by_side(name: str, *parts: nn.Linear) -> dict[str, Tensor]:
    weights = {f"{name}.weight": torch.cat([part.weight for part in parts])}
    if parts[0].bias is not None:
        weights[f"{name}.bias"] = torch.cat([part.bias for part in parts])
    return weights


IMAGE_FAMILIES = {
    "deit": ImageFamily("deit_base_distilled_patch16_224", _deit_weights),
    "vit": ImageFamily("vit_base_patch16_224", _vit_weights),
}
BLIP_IMAGE = ImageFamily("vit_base_patch16_224", _blip_image_weights)
DECODERS = sorted(name for name, family in FAMILIES.items() if family.cross_attention is not None)
SUPPORTED = (
    f"VisionEncoderDecoderModel (encoder: {' or '.join(IMAGE_FAMILIES)}; decoder: {' or '.join(DECODERS)}) and "
    "BlipForConditionalGeneration"
)


class Parts(NamedTuple):
    """What an architecture consists of, once transformers has loaded it.

    Args:
        image_family, encoder: the image encoder and how it is translated.
        family, decoder: the text decoder and how it is translated.
        projection: between their widths, where the architecture has one.
        memory_width: of what the decoder attends to, where that is not the decoder's own width.
        generation: how captions are searched for, the special tokens included.
    """

    image_family: ImageFamily
    encoder: PreTrainedModel
    family: Family
    decoder: PreTrainedModel
    projection: nn.Linear | None
    memory_width: int | None
    generation: GenerationConfig


def _vision_encoder_decoder(source: str, config: dict[str, Any], kwargs: dict[str, Any]) -> Parts:
    """Special tokens may stand in any of three places; the first that names one is the one that `generate` asks."""
    encoder, decoder = (config[part]["model_type"] for part in ("encoder", "decoder"))
    if encoder not in IMAGE_FAMILIES or decoder not in DECODERS:
        raise ForeignError(f"{source} pairs {encoder!r} with {decoder!r}; captioner takes over {SUPPORTED}")
    model = VisionEncoderDecoderModel.from_pretrained(source, **kwargs)
    generation = deepcopy(model.generation_config)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
        places = (generation, model.config, model.config.decoder)
        values = (getattr(place, name, None) for place in places)
        setattr(generation, name, next((value for value in values if value is not None), None))
    return Parts(
        IMAGE_FAMILIES[encoder],
        model.encoder,
        FAMILIES[decoder],
        model.decoder,
        getattr(model, "enc_to_dec_proj", None),
        None,
        generation,
    )


def _blip(source: str, config: dict[str, Any], kwargs: dict[str, Any]) -> Parts:
    """Starts with bos, ends with sep; the decoder's keys and values are as wide as the image encoder's states."""
    name = BlipForConditionalGeneration.__name__
    if name not in (config.get("architectures") or [name]):
        raise ForeignError(f"{source} is a {config['architectures'][0]}; captioner takes over {SUPPORTED}")
    model = BlipForConditionalGeneration.from_pretrained(source, **kwargs)
    text = model.config.text_config
    generation = deepcopy(model.text_decoder.generation_config)
    generation.bos_token_id = generation.decoder_start_token_id = text.bos_token_id
    generation.eos_token_id, generation.pad_token_id = text.sep_token_id, text.pad_token_id
    width = model.config.vision_config.hidden_size
    memory_width = None if width == text.hidden_size else width
    return Parts(BLIP_IMAGE, model.vision_model, BERT, model.text_decoder, None, memory_width, generation)


ARCHITECTURES = {"blip": _blip, "vision-encoder-decoder": _vision_encoder_decoder}


def adopt(
    source: str, config: dict[str, Any], hub: dict[str, Any], attn_implementation: str | None = None, **kwargs: Any
) -> tuple[Captioner, CaptionerProcessor]:
    """Load a captioner of one of `ARCHITECTURES` and translate it.

    Args:
        source: a directory or a Hub repository with model, image processor and tokenizer.
        config: its `config.json`.
        hub: where to look on the Hub, such as `revision` or `token`.
        attn_implementation: of the translated model.
        kwargs: for transformers' `from_pretrained`, such as `dtype`.

    Raises:
        ForeignError: a part of the architecture that ours cannot express, no image processor or no tokenizer.
        OSError: no weights.
    """
    parts = ARCHITECTURES[config["model_type"]](source, config, {**hub, **kwargs})
    images = _beside(source, "image processor", AutoImageProcessor, hub)
    tokenizer = _beside(source, "tokenizer", AutoTokenizer, hub)
    decoder = parts.family.configuration(parts.decoder.config)
    processor = _processor(parts.generation, image_settings(images), tokenizer, decoder.max_positions)
    return _translate(parts, decoder, processor, attn_implementation), processor


def _beside(source: str, what: str, auto: type, hub: dict[str, Any]) -> Any:
    try:
        return auto.from_pretrained(source, **hub)
    except (OSError, ValueError) as error:
        raise ForeignError(
            f"{source} has no {what} that can be loaded; `save_pretrained` the one that the model was trained with "
            f"there ({one_line(error)[:160]})"
        ) from error


def _processor(
    tokens: GenerationConfig, settings: ImageSettings, tokenizer: PreTrainedTokenizerBase, positions: int
) -> CaptionerProcessor:
    """Special tokens as `generate` of transformers takes them; the tokenizer's where the model names none."""
    start, eos = tokens.decoder_start_token_id, tokens.eos_token_id
    return CaptionerProcessor(
        settings,
        tokenizer,
        max_caption_length=min(MAX_CAPTION_LENGTH, positions),
        start_token_id=tokens.bos_token_id if start is None else start,
        eos_token_id=eos[0] if isinstance(eos, list) else eos,
        pad_token_id=tokens.pad_token_id,
    )


def _translate(
    parts: Parts, decoder: DecoderConfig, processor: CaptionerProcessor, attn_implementation: str | None
) -> Captioner:
    head, embedding = parts.decoder.get_output_embeddings(), parts.decoder.get_input_embeddings()
    decoder.tie_word_embeddings = head.weight is embedding.weight
    eos = parts.generation.eos_token_id
    tokens = {
        "bos_token_id": processor.start_token_id,
        "decoder_start_token_id": processor.start_token_id,
        "eos_token_id": processor.eos_token_id if eos is None else eos,
        "pad_token_id": processor.pad_token_id,
    }
    config = CaptionerConfig(
        image_encoder=parts.image_family.configuration(parts.encoder.config),
        decoder=decoder,
        memory_width=parts.memory_width,
        **tokens,
    )
    captioner = AutoModel.from_config(config, dtype=parts.decoder.dtype, attn_implementation=attn_implementation)
    captioner.load_state_dict(_weights(parts))
    captioner.generation_config = parts.generation
    captioner.generation_config.update(**tokens)
    return captioner.to(parts.decoder.device).eval()


def _weights(parts: Parts) -> dict[str, Tensor]:
    """Everything under its name in `Captioner`."""
    image = parts.image_family.weights(parts.encoder)
    return {
        **{f"encoder.image.backbone.{name}": weight for name, weight in image.items()},
        **({} if parts.projection is None else module("encoder.projections.image", parts.projection)),
        **parts.family.weights(parts.decoder),
        **parts.family.cross_attention(parts.decoder),
    }


def image_settings(processor: Any) -> ImageSettings:
    """Read a transformers image processor that resizes to a fixed size and may cut out the middle.

    Raises:
        ForeignError: one that does anything else.
    """
    size, middle = processor.size, processor.crop_size if processor.do_center_crop else processor.size
    interpolation = INTERPOLATIONS.get(processor.resample)
    plain = processor.do_resize and processor.do_rescale and abs(processor.rescale_factor * 255 - 1) < 1e-6
    if not (plain and size.height and interpolation and middle.height * size.width == middle.width * size.height):
        keys = ("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor")
        found = {key: getattr(processor, key) for key in keys}
        raise ForeignError(
            "the image processor must resize to a height and a width, cut out nothing or a middle of the same shape, "
            f"and divide by 255, but has {found}"
        )
    return ImageSettings(
        middle.height,
        middle.width,
        mean=processor.image_mean if processor.do_normalize else (0.0, 0.0, 0.0),
        std=processor.image_std if processor.do_normalize else (1.0, 1.0, 1.0),
        interpolation=interpolation,
        crop_pct=_share(middle.height, size.height),
    )


def _share(kept: int, side: int) -> float:
    """kept / side, so that dividing by it gives the whole side again."""
    share = kept / side
    return share if math.floor(kept / share) == side else math.nextafter(share, 0)
