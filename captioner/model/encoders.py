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

from .configuration import CaptionerConfig, input_names
from .further import further_encoder
from .grids import nearest_grid
from .memory import Memory
from .memory_options import RESAMPLER
from .reduction import Pool, Resampler
from .windows import Windows

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

    @property
    def prefix(self) -> int:
        """Tokens before the patches (class, registers) in what the backbone gives."""
        return getattr(self.backbone, "num_prefix_tokens", 0)

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
    """A transformers text encoder (of an encoder-decoder, its encoder); with `windows`, of texts of any length."""

    def __init__(self, config: PreTrainedConfig, windows: Windows | None = None):
        super().__init__()
        self.windows = windows
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
        if self.windows is not None and (attention_mask.sum(dim=1) > self.windows.length).any():
            return self.windows.encode(self._read, input_ids, attention_mask)
        return self._read(input_ids, attention_mask).masked_fill(~attention_mask.bool()[:, :, None], 0.0)

    def _read(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask.long()).last_hidden_state


class Encoders(nn.Module):
    """All of a captioner's encoders, each with a projection where its width is not the memory's."""

    main_input_name = "pixel_values"

    def __init__(self, config: CaptionerConfig):
        super().__init__()
        self.order = config.modalities
        self.image = ImageEncoder(config.image_encoder) if config.image_encoder is not None else None
        windows = Windows(**config.context_window) if config.context_window else None
        self.context = ContextEncoder(config.context_encoder, windows) if config.context_encoder is not None else None
        self.further = nn.ModuleDict({name: further_encoder(name, shape) for name, shape in config.encoders.items()})
        width, parts = config.memory_width or config.decoder.hidden_size, self.parts
        self.projections = nn.ModuleDict(
            {
                name: nn.Identity() if part.width == width else nn.Linear(part.width, width)
                for name, part in parts.items()
            }
        )
        pool = config.memory.get("image", {}).get("pool", 1)
        self.pool = Pool(pool) if pool > 1 else None
        self.resamplers = nn.ModuleDict(
            {
                name: Resampler(width, **RESAMPLER | config.memory[name]["resampler"])
                for name in self.order
                if "resampler" in config.memory.get(name, {})
            }
        )
        several = self.image is not None and config.max_images > 1
        self.image_places = nn.Embedding(config.max_images, width) if several else None
        self.widths = dict.fromkeys(self.order, width)
        self.all_tied_weights_keys = {
            key: source for name, part in parts.items() for key, source in _below(self.path(name), part).items()
        }

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Modality → its encoder, in the configured order."""
        return {name: self.get_submodule(self.path(name)) for name in self.order}

    @staticmethod
    def path(modality: str) -> str:
        """Where the encoder of a modality is kept."""
        return modality if modality in READERS else f"further.{modality}"

    def forward(
        self,
        pixel_values: Tensor | None = None,
        image_mask: Tensor | None = None,
        context_input_ids: Tensor | None = None,
        context_attention_mask: Tensor | None = None,
        **further: Any,
    ) -> Memory:
        """Encode what is given; a modality that is not given is missing from the `Memory`.

        Args:
            pixel_values: (B, 3, H, W); or (B, I, 3, H, W) for up to I images of a sample.
            image_mask: (B,) or (B, I), False where there is no image; None when all are there.
            context_input_ids: (B, L).
            context_attention_mask: (B, L), False or 0 at padding and throughout for a sample without context.
            further: of each further modality, `NAME_values` (B, S, …) and `NAME_mask`, (B, S) or (B,); also
                `output_attentions` and the like, which `generate` hands to every encoder.

        Returns:
            States of the images of a sample one after the other, I times those of one.

        Raises:
            ValueError: nothing to encode, or a modality that this captioner has no encoder for.
        """
        given = {"image": (pixel_values, image_mask), "context": (context_input_ids, context_attention_mask)}
        for name in self.further:
            given[name] = tuple(further.get(key) for key in input_names(name))
        self._check({name: values for name, (values, _) in given.items()})
        encoded = {}
        for name in self.order:
            values, mask = given[name]
            if values is not None:
                encoded[name] = READERS.get(name, Encoders._take)(self, values, mask, name)
                if name in self.resamplers:
                    encoded[name] = self.resamplers[name](*encoded[name])
        return Memory(
            states={name: states for name, (states, _) in encoded.items()},
            masks={name: mask for name, (_, mask) in encoded.items()},
        )

    def _look(self, pixel_values: Tensor, image_mask: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) or (B, I, 3, H, W) → (B, I·S, D) and (B, I·S)."""
        samples, images = len(pixel_values), pixel_values.shape[1] if pixel_values.ndim == 5 else 1
        most = 1 if self.image_places is None else self.image_places.num_embeddings
        if images > most:
            raise ValueError(f"a sample has {images} images, but `max_images` is {most}; raise it or leave some out")
        pixels = pixel_values.flatten(0, 1) if pixel_values.ndim == 5 else pixel_values
        mask = None if image_mask is None else image_mask.bool().view(samples, -1).expand(-1, images).flatten()
        if mask is None:
            states = self._see(pixels)
        else:
            there = _there(mask, pixels.device)
            states = _put(there, self._see(pixels[there]))
        mask = _rows(mask, states)
        if self.image_places is not None:
            states = states.unflatten(0, (samples, images)) + self.image_places.weight[:images, None]
        return states.reshape(samples, -1, states.shape[-1]), mask.reshape(samples, -1)

    def _see(self, pixels: Tensor) -> Tensor:
        """Images one by one, (R, 3, H, W) → (R, S, D)."""
        states = self.projections["image"](self.image(pixels))
        if self.pool is None:
            return states
        height, width = pixels.shape[-2:] if pixels.ndim == 4 else (1, 1)
        return self.pool(states, nearest_grid(self.image.prefix, states.shape[1], height, width))

    def _read(self, ids: Tensor, mask: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
        """(B, L) ids → (B, L, D) and (B, L)."""
        mask = torch.ones_like(ids) if mask is None else mask
        return self.projections[name](self.context(ids, mask)), mask.bool()

    def _take(self, values: Tensor, mask: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
        """Any further modality: (B, …) → (B, S, D) and (B, S)."""
        if mask is None:
            mask = torch.ones(len(values), dtype=torch.bool, device=values.device)
        mask = mask.bool().view(len(values), -1).expand(values.shape[:2])
        there = _there(mask.any(dim=1), values.device)
        states, seen = self.further[name](values[there], mask[there])
        return _put(there, self.projections[name](states)), _put(there, seen)

    def _check(self, given: dict[str, Tensor | None]) -> None:
        present = [name for name, value in given.items() if value is not None]
        foreign = [name for name in present if name not in self.order]
        if foreign:
            raise ValueError(f"this captioner has no encoder for {foreign}; it takes {self.order}")
        if not present:
            names = ", ".join(f"`{input_names(name)[0]}`" for name in self.order)
            raise ValueError(f"nothing to caption: give at least one of {names}")


READERS = {"image": Encoders._look, "context": Encoders._read}  # every other modality is taken by `_take`


def _there(mask: Tensor, device: torch.device) -> Tensor:
    """The rows (B,) to encode: a sample that lacks a modality costs nothing.

    Where all lack it, the first is encoded all the same: its states give the shape, and every process of a distributed
    run uses the same parameters.
    """
    there = mask if mask.any() else torch.arange(len(mask)) == 0
    return there.to(device)


def _put(there: Tensor, rows: Tensor) -> Tensor:
    """Rows back to their places in the batch, zeros in the others."""
    return rows.new_zeros(len(there), *rows.shape[1:]).index_put((there,), rows)


def _rows(mask: Tensor | None, states: Tensor) -> Tensor:
    """(B,) or None → (B, S) bool."""
    everywhere = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    return everywhere if mask is None else everywhere & mask.bool()[:, None]


def _below(name: str, part: nn.Module) -> dict[str, str]:
    """A part's tied weights under its name here: transformers gathers them from direct children only."""
    tied = getattr(part, "all_tied_weights_keys", {})
    return {f"{name}.{target}": f"{name}.{source}" for target, source in tied.items()}
