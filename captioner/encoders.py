"""From pixels and context ids to `Memory`: a timm backbone, a transformers text encoder, projections to one width.

Knows nothing about captions. Backbones are built from their configuration; pretrained weights are put in by whoever
assembles a captioner from parts. Letters: B, S_m, D as in every file; P patch tokens, L context tokens.
"""

from difflib import get_close_matches
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForTextEncoding, PreTrainedConfig
from transformers import initialization as init

from .configuration import CaptionerConfig
from .memory import Memory

PROCESSOR_KEYS = ("mean", "std", "interpolation", "crop_pct", "crop_mode")


class ConvolutionalStem(nn.Sequential):
    """Stride-2 convolutions in place of a ViT's patch embedding ("Early Convolutions", arXiv 2106.14881).

    Learns to see from few images far sooner than one large linear patch. (B, 3, H, W) → (B, width, H/8, W/8).
    """

    stride = 8

    def __init__(self, width: int):
        channels = (3, width // 4, width // 2, width)
        super().__init__(*(self._stage(a, b) for a, b in pairwise(channels)))
        self.num_features = width

    @staticmethod
    def _stage(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(1, outputs),
            nn.GELU(),
        )


STEMS = {"convolutional": ConvolutionalStem}
POSITION_STD = 0.5  # beside a stem's strong features, ViT's own 0.02 leaves a captioner blind to where things are


def build_backbone(image_encoder: dict[str, Any], pretrained: bool = False) -> nn.Module:
    """Build a timm model without head or pooling from `CaptionerConfig.image_encoder`.

    Raises:
        ValueError: a name that timm does not know, an unknown stem, or an option that the model does not take.
    """
    import timm

    options = {key: value for key, value in image_encoder.items() if key not in PROCESSOR_KEYS}
    name, size, stem = options.pop("name"), options.pop("image_size", None), options.pop("stem", None)
    if not timm.is_model(name) and not name.startswith("local-dir:"):
        near = get_close_matches(name, timm.list_models(), n=5)
        raise ValueError(f"timm has no model {name!r}; similar names: {near}, all: timm.list_models()")
    cfg = timm.models.get_pretrained_cfg(name)
    if size is not None and cfg is not None and cfg.fixed_input_size:
        options["img_size"] = size
    if stem is not None:
        options |= _stem_options(stem, size, options)
    if "norm_eps" in options:
        options["norm_layer"] = partial(nn.LayerNorm, eps=options.pop("norm_eps"))
    try:
        pool = "token" if "distilled" in name else ""  # distilled heads insist on it; no head is ever called
        backbone = timm.create_model(name, pretrained=pretrained, num_classes=0, global_pool=pool, **options)
    except TypeError as error:
        raise ValueError(f"the timm model {name!r} does not take one of {sorted(options)}: {error}") from error
    if stem is not None:
        nn.init.normal_(backbone.pos_embed, std=POSITION_STD)
    if hasattr(backbone, "head"):
        backbone.head = nn.Identity()  # ConvNeXt and others keep a norm there: parameters that get no gradient
    return backbone


def _stem_options(stem: str, size: int | None, options: dict[str, Any]) -> dict[str, Any]:
    from timm.layers import HybridEmbed

    if stem not in STEMS:
        raise ValueError(f"`image_encoder.stem` must be one of {sorted(STEMS)}, but is {stem!r}")
    if size is None or "embed_dim" not in options:
        raise ValueError("`image_encoder.stem` needs `image_size` and `embed_dim` beside it")
    backbone = STEMS[stem](options["embed_dim"])
    ratio = backbone.stride
    embed = partial(HybridEmbed, backbone=backbone, feature_size=size // ratio, feature_ratio=ratio)
    return {"embed_layer": embed, "patch_size": 1}


class ImageEncoder(nn.Module):
    """A timm backbone whose features come out as tokens, whatever their layout."""

    def __init__(self, image_encoder: dict[str, Any]):
        super().__init__()
        self.backbone = build_backbone(image_encoder)
        self.width = self.backbone.num_features

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, S, D_image): prefix tokens and patches of a ViT, the cells of a feature map.

        What comes in as (B, S, D_image) are features already, from a store; they go out as they are.
        """
        if pixel_values.ndim == 3:
            return pixel_values
        features = self.backbone.forward_features(pixel_values)
        if isinstance(features, tuple):
            features = features[0]
        if features.ndim == 4:
            channels_last = getattr(self.backbone, "output_fmt", "NCHW") == "NHWC"
            return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)
        prefix = getattr(self.backbone, "num_prefix_tokens", getattr(self.backbone, "num_tokens", 0))  # PiT: the latter
        if features.shape[1] <= prefix:
            return self._last_map(pixel_values)
        return features

    def _last_map(self, pixel_values: Tensor) -> Tensor:
        """For backbones that hand out only their class token: the last feature map, (B, P, D_image)."""
        last = self.backbone.forward_intermediates(pixel_values, indices=[-1], intermediates_only=True)[0]
        return last.flatten(2).transpose(1, 2)


def text_encoder_class(config: PreTrainedConfig) -> type:
    """The auto class that builds only the encoder of a text model."""
    return AutoModelForTextEncoding if type(config) in AutoModelForTextEncoding._model_mapping else AutoModel


class ContextEncoder(nn.Module):
    """A transformers text encoder (of an encoder-decoder, its encoder)."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.model = text_encoder_class(config).from_config(config)
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None
        self.width = config.hidden_size
        self.all_tied_weights_keys = _below("model", self.model)
        if getattr(config, "embedding_std", None):
            for module in self.model.modules():
                if isinstance(module, nn.Embedding):
                    init.normal_(module.weight, std=config.embedding_std)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L) ids and mask → (B, L, D_context); states of padding are 0, also where all of a row is padding."""
        states = self.model(input_ids=input_ids, attention_mask=attention_mask.long()).last_hidden_state
        return states.masked_fill(~attention_mask.bool()[:, :, None], 0.0)


class Encoders(nn.Module):
    """All of a captioner's encoders, each with a projection where its width is not the memory's."""

    main_input_name = "pixel_values"

    def __init__(self, config: CaptionerConfig):
        super().__init__()
        self.order = config.modalities
        self.image = ImageEncoder(config.image_encoder) if config.image_encoder is not None else None
        self.context = ContextEncoder(config.context_encoder) if config.context_encoder is not None else None
        width = config.memory_width or config.decoder.hidden_size
        parts = {name: getattr(self, name) for name in self.order}
        self.projections = nn.ModuleDict(
            {
                name: nn.Identity() if part.width == width else nn.Linear(part.width, width)
                for name, part in parts.items()
            }
        )
        self.widths = dict.fromkeys(self.order, width)
        self.all_tied_weights_keys = {} if self.context is None else _below("context", self.context)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        image_mask: Tensor | None = None,
        context_input_ids: Tensor | None = None,
        context_attention_mask: Tensor | None = None,
        **unused: Any,
    ) -> Memory:
        """Encode what is given; a modality that is not given is missing from the `Memory`.

        Args:
            pixel_values: (B, 3, H, W).
            image_mask: (B,), False where a sample has no image; None when all have one.
            context_input_ids: (B, L).
            context_attention_mask: (B, L), False or 0 at padding and throughout for a sample without context.
            unused: `output_attentions` and the like, which `generate` hands to every encoder.

        Raises:
            ValueError: nothing to encode, or a modality that this captioner has no encoder for.
        """
        given = {"image": pixel_values, "context": context_input_ids}
        self._check(given)
        states, masks = {}, {}
        if pixel_values is not None:
            states["image"] = self._look(pixel_values, image_mask)
            masks["image"] = _rows(image_mask, states["image"])
        if context_input_ids is not None:
            mask = torch.ones_like(context_input_ids) if context_attention_mask is None else context_attention_mask
            states["context"] = self.projections["context"](self.context(context_input_ids, mask))
            masks["context"] = mask.bool()
        present = [name for name in self.order if name in states]
        return Memory(states={n: states[n] for n in present}, masks={n: masks[n] for n in present})

    def _look(self, pixel_values: Tensor, image_mask: Tensor | None) -> Tensor:
        """(B, 3, H, W) → (B, S, D); samples without an image cost nothing.

        Where all lack one, the first is looked at all the same: its states give the shape, and every process of a
        distributed run uses the same parameters.
        """
        if image_mask is None:
            return self.projections["image"](self.image(pixel_values))
        there = image_mask.bool() if image_mask.any() else torch.arange(len(image_mask)) == 0
        there = there.to(pixel_values.device)
        seen = self.projections["image"](self.image(pixel_values[there]))
        return seen.new_zeros(len(there), *seen.shape[1:]).index_put((there,), seen)

    def _check(self, given: dict[str, Tensor | None]) -> None:
        present = [name for name, value in given.items() if value is not None]
        foreign = [name for name in present if name not in self.order]
        if foreign:
            raise ValueError(f"this captioner has no encoder for {foreign}; it takes {self.order}")
        if not present:
            raise ValueError("nothing to caption: give `pixel_values`, `context_input_ids` or both")


def _rows(mask: Tensor | None, states: Tensor) -> Tensor:
    """(B,) or None → (B, S) bool."""
    everywhere = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    return everywhere if mask is None else everywhere & mask.bool()[:, None]


def _below(name: str, part: nn.Module) -> dict[str, str]:
    """A part's tied weights under its name here: transformers gathers them from direct children only."""
    return {f"{name}.{target}": f"{name}.{source}" for target, source in part.all_tied_weights_keys.items()}
