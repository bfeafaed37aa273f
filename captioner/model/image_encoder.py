"""Looking: a timm backbone, built from its configuration, whose features come out as tokens.

Knows nothing about other modalities or captions. Pretrained weights are put in by whoever assembles a captioner from
parts. Letters: B, S, D as in every file; P patch tokens.
"""

from difflib import get_close_matches
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .image_options import timm_settings, two_sides, with_architecture
from .modality_encoders import in_precision_of

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


def build_backbone(
    image_encoder: dict[str, Any], pretrained: bool = False, weights: dict[str, Any] | None = None
) -> nn.Module:
    """Build a timm model without head or pooling from `CaptionerConfig.image_encoder`.

    Args:
        image_encoder: the model's name and the options of `image_options.py`; nothing else reaches timm.
        pretrained: load weights, resized where the image size differs.
        weights: where they are, in place of the Hub: timm's `state_dict` or `file`.

    Raises:
        ValueError: a name that timm does not know, an unknown stem, or an option that the model does not take.
        OSError, RuntimeError: weights that cannot be had.
    """
    import timm

    options = {key: value for key, value in with_architecture(image_encoder).items() if key not in PROCESSOR_KEYS}
    name, size, stem = options.pop("name"), options.pop("image_size", None), options.pop("stem", None)
    if not isinstance(name, str) or not timm.is_model(name):
        near = get_close_matches(str(name), timm.list_models(), n=5)
        raise ValueError(f"timm has no model {name!r}; similar names: {near}, all: timm.list_models()")
    cfg = timm_settings(name)
    if size is not None and cfg is not None and cfg.fixed_input_size:
        options["img_size"] = size
    if stem is not None:
        options |= _stem_options(stem, size, options)
    if "norm_eps" in options:
        options["norm_layer"] = partial(nn.LayerNorm, eps=options.pop("norm_eps"))
    pool = "token" if "distilled" in name else ""  # distilled heads insist on it; no head is ever called
    options |= {"num_classes": 0, "global_pool": pool}
    try:
        backbone = timm.create_model(name, pretrained=pretrained, pretrained_cfg_overlay=weights, **options)
    except TypeError as error:
        raise ValueError(f"the timm model {name!r} does not take one of {sorted(options)}: {error}") from error
    except Exception as error:
        if pretrained and isinstance(error, OSError | RuntimeError):
            raise
        raise ValueError(f"timm cannot build {name!r} with {options}: {error!r}; change an option") from error
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
    """A timm backbone whose features come out as tokens, whatever their layout.

    Attributes:
        picture: height and width of the pictures that it sees: by its configuration, else by timm's.
        stored: whether features are expected in the place of pixels, made of pictures of that size.
    """

    def __init__(self, image_encoder: dict[str, Any]):
        super().__init__()
        self.backbone = build_backbone(image_encoder)
        self.width = self.backbone.num_features
        size = with_architecture(image_encoder).get("image_size")
        self.picture = two_sides(size or self.backbone.pretrained_cfg["input_size"][1:])
        self.stored = False
        self._tokens: int | None = None

    def expect_features(self, height: int, width: int) -> None:
        """Say that features come from a store that this encoder made of pictures of this size."""
        self.picture, self.stored = (height, width), True

    @property
    def prefix(self) -> int:
        """Tokens before the patches (class, registers) in what the backbone gives."""
        return getattr(self.backbone, "num_prefix_tokens", 0)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, S, D_image): prefix tokens and patches of a ViT, the cells of a feature map.

        What comes in as (B, S, D_image) are features already, from a store; they go out as they are. Either comes in
        the precision of the weights.

        Raises:
            ValueError: three dimensions, but not those of features: one image that is no batch.
        """
        pixel_values = in_precision_of(pixel_values, self.backbone)
        if pixel_values.ndim == 3:
            self._check_features(pixel_values.shape)
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

    def _check_features(self, shape: torch.Size) -> None:
        """Features of another encoder, or a picture alone (3, H, W), are none of ours."""
        tokens = shape[1] if self.stored else self._count_tokens()
        if shape[1:] != (tokens, self.width) or (not self.stored and shape == (3, *self.picture)):
            height, width = self.picture
            raise ValueError(
                f"`pixel_values` must be (B, 3, {height}, {width}), or stored features (B, {tokens}, {self.width}), "
                f"but are {tuple(shape)}; one image goes in as `pixel_values[None]`"
            )

    @torch.no_grad()
    def _count_tokens(self) -> int:
        """S: looked up once, on a blank picture, while no layer is in training."""
        if self._tokens is None:
            training = [module for module in self.backbone.modules() if module.training]
            self.backbone.eval()
            blank = torch.zeros(1, 3, *self.picture, device=next(self.backbone.parameters()).device)
            self._tokens = self.forward(blank).shape[1]
            for module in training:
                module.training = True
        return self._tokens

    def _last_map(self, pixel_values: Tensor) -> Tensor:
        """For backbones that hand out only their class token: the last feature map, (B, P, D_image)."""
        last = self.backbone.forward_intermediates(pixel_values, indices=[-1], intermediates_only=True)[0]
        return last.flatten(2).transpose(1, 2)
