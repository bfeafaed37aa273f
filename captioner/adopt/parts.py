"""A captioner put together from its parts: pretrained ones by name or directory, new ones by configuration.

Knows how parts are named and loaded; `families.py` and `llama.py` know what each family of decoders looks like.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from ..base import one_line
from ..model import (
    Captioner,
    CaptionerConfig,
    CaptionerProcessor,
    DecoderConfig,
    ImageSettings,
    build_backbone,
    text_encoder_class,
)
from .families import FAMILIES
from .further_parts import PartsError, further_inputs, further_shape, load_further, pretrained
from .llama import LLAMA_FAMILIES

OPTIONS = ("modality_order", "memory", "memory_width", "max_images", "context_window")
# Model type of transformers → how its language models are translated.
DECODERS = FAMILIES | LLAMA_FAMILIES
SHIPPED = Path(__file__).parents[1] / "shipped"
IMAGE_ENCODER = "encoder.image.backbone."  # in a captioner's weights


def from_parts(
    image_encoder: dict[str, Any] | str | None = None,
    context_encoder: PreTrainedConfig | dict[str, Any] | str | None = None,
    decoder: dict[str, Any] | str = "gpt2",
    conditioning: str = "concatenated",
    fusion: str | None = None,
    encoders: Mapping[str, dict[str, Any] | str] | None = None,
    dropout: float | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_caption_length: int = 40,
    max_context_length: int = 64,
    **options: Any,
) -> tuple[Captioner, CaptionerProcessor]:
    """Put a captioner together, in evaluation mode; what joins its parts (projections, cross-attention) is new.

    1. tokenizers, the configuration with their vocabulary and special tokens, the processor;
    2. the model with random weights, then the pretrained parts' weights.

    Args:
        image_encoder: a timm name (or its Hub id, `timm/…`), with its weights from the Hub; or a dict as in
            `CaptionerConfig`, in which `pretrained` may be true (weights from the Hub), false, the path of a file, or a
            captioner (a directory or a shipped name) whose image encoder has the same shape.
        context_encoder: name or directory of a transformers text encoder; or a configuration of a new one.
        decoder: name or directory of a language model of a family in `DECODERS`; or a `DecoderConfig` as a dict.
        conditioning, fusion: as in `CaptionerConfig`; "separate" with "gated" leaves the language model's logits as
            they are until it is trained.
        encoders: further modalities by name, each as in `CaptionerConfig` or name or directory of a transformers
            encoder, whose feature extractor then comes along.
        dropout: of decoder and context encoder; None keeps theirs.
        tokenizer: of captions; None: the pretrained decoder's. A new context encoder reads with it too.
        max_caption_length, max_context_length: as in `CaptionerProcessor`.
        options: those of `OPTIONS`, as in `CaptionerConfig`.

    Raises:
        TypeError: an option that there is not.
        PartsError: a part that cannot be loaded, is of a family that is not supported or does not fit the others.
    """
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise TypeError(f"from_parts takes {', '.join(OPTIONS)}, but not {', '.join(unknown)}")
    if isinstance(image_encoder, str):
        image_encoder = {"name": image_encoder.removeprefix("timm/"), "pretrained": True}
    if tokenizer is None:
        tokenizer = _tokenizer_of(decoder)
    context_tokenizer = pretrained(AutoTokenizer, context_encoder) if isinstance(context_encoder, str) else None
    try:
        config = CaptionerConfig(
            image_encoder={k: v for k, v in image_encoder.items() if k != "pretrained"} if image_encoder else None,
            context_encoder=context_configuration(context_encoder, len(context_tokenizer or tokenizer), dropout),
            decoder=_decoder_configuration(decoder, len(tokenizer), dropout),
            conditioning=conditioning,
            fusion=fusion,
            encoders={name: further_shape(encoder) for name, encoder in (encoders or {}).items()},
            **options,
        )
        if config.context_window:
            config.context_window = special_ids(context_tokenizer or tokenizer) | config.context_window
        settings = ImageSettings.for_encoder(config.image_encoder) if config.image_encoder is not None else None
        processor = CaptionerProcessor(
            settings,
            tokenizer,
            context_tokenizer,
            max_caption_length,
            max_context_length,
            max_images=config.max_images,
            further=further_inputs(encoders or {}, config),
        )
        config.bos_token_id = config.decoder_start_token_id = processor.start_token_id
        config.eos_token_id, config.pad_token_id = processor.eos_token_id, processor.pad_token_id
        processor.check_model(config)
        captioner = Captioner(config)
    except ValueError as error:
        raise PartsError(str(error)) from error
    load_pretrained_parts(captioner, image_encoder, context_encoder, decoder, encoders)
    return captioner.eval(), processor


def _tokenizer_of(decoder: dict[str, Any] | str) -> PreTrainedTokenizerBase:
    if isinstance(decoder, str):
        return pretrained(AutoTokenizer, decoder)
    raise PartsError("a new decoder knows no words: give `tokenizer`, or `decoder` as the name of a pretrained one")


def context_configuration(
    context: PreTrainedConfig | dict[str, Any] | str | None, vocabulary: int, dropout: float | None = None
) -> PreTrainedConfig | None:
    """The configuration of a text encoder, given one, its dict, or a pretrained one's name or directory.

    A pretrained one is computed in the captioner's dtype, whatever its weights were saved in.
    """
    if isinstance(context, str):
        context = pretrained(AutoConfig, context).get_text_config()
        context.dtype = None
    elif isinstance(context, dict):
        context = AutoConfig.for_model(**{"vocab_size": vocabulary, **context})
    if dropout is not None:
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout_rate"):
            if hasattr(context, name):
                setattr(context, name, dropout)
    return context


def special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """The ids that a tokenizer puts before and after a text: what windows of a text need too."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
    first, after = special.index(0), len(special) - special[::-1].index(0)
    return {"opening": ids[:first], "closing": ids[after:]}


def _decoder_configuration(decoder: dict[str, Any] | str, vocabulary: int, dropout: float | None) -> DecoderConfig:
    if isinstance(decoder, dict):
        config = DecoderConfig(**{"vocab_size": vocabulary, **decoder})
    else:
        source = pretrained(AutoConfig, decoder)
        if source.model_type not in DECODERS:
            raise PartsError(
                f"`decoder` must be of a family in {sorted(DECODERS)}, but {decoder} is {source.model_type!r}"
            )
        config = DECODERS[source.model_type].configuration(source)
    if dropout is not None:
        config.dropout = dropout
    return config


def load_pretrained_parts(
    captioner: Captioner,
    image_encoder: dict[str, Any] | None,
    context_encoder: PreTrainedConfig | dict[str, Any] | str | None,
    decoder: dict[str, Any] | str,
    encoders: Mapping[str, dict[str, Any] | str] | None = None,
) -> None:
    """Put pretrained weights into the parts that are named; parts given as configurations stay as they are."""
    if image_encoder is not None and image_encoder.get("pretrained"):
        load_timm_weights(captioner.encoder.image.backbone, image_encoder)
    if isinstance(context_encoder, str):
        config = captioner.config.context_encoder
        source = pretrained(text_encoder_class(config), context_encoder, config=config)
        captioner.encoder.context.model.load_state_dict(source.state_dict(), strict=False)
    for name, encoder in (encoders or {}).items():
        if isinstance(encoder, str):
            load_further(captioner.encoder.further[name], encoder)
    if isinstance(decoder, str):
        source = pretrained(AutoModelForCausalLM, decoder)
        fill(captioner, DECODERS[source.config.model_type].weights(source))


def load_timm_weights(backbone: nn.Module, image_encoder: dict[str, Any]) -> None:
    """Weights from the Hub (`pretrained: true`) or a local file (`pretrained: path`), resized to the image size.

    Where it names a captioner, those of its image encoder as they are.
    """
    weights = image_encoder["pretrained"]
    places = [place / "model.safetensors" for place in (Path(str(weights)), SHIPPED / str(weights))]
    captioner = next((file for file in places if file.is_file()), None)
    if captioner is not None:
        _load_eyes(backbone, captioner)
        return
    options = {k: v for k, v in image_encoder.items() if k != "pretrained"}
    if isinstance(weights, str):
        if not Path(weights).is_file():
            raise PartsError(
                f"`image_encoder.pretrained` is {weights!r}, which is no file and no captioner; give one, true or false"
            )
        options["pretrained_cfg_overlay"] = {"file": weights}
    try:
        source = build_backbone(options, pretrained=True)
    except (OSError, RuntimeError) as error:
        raise PartsError(
            f"cannot load the weights of {options['name']!r}: the Hub must be reachable, or `image_encoder.pretrained` "
            f"the path of a local file ({one_line(error)[:160]})"
        ) from error
    backbone.load_state_dict(source.state_dict())


def _load_eyes(backbone: nn.Module, file: Path) -> None:
    """The image encoder's weights in a captioner's file."""
    with safe_open(file, "pt") as tensors:
        names = [name for name in tensors.keys() if name.startswith(IMAGE_ENCODER)]  # noqa: SIM118
        weights = {name.removeprefix(IMAGE_ENCODER): tensors.get_tensor(name) for name in names}
    try:
        backbone.load_state_dict(weights)
    except RuntimeError as error:
        raise PartsError(
            f"{file} has no image encoder of this shape; set `model.image_encoder` as its config.json has it "
            f"({one_line(error)[:160]})"
        ) from error


def fill(captioner: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put translated weights in; what they do not name (the cross-attention) stays new."""
    unexpected = captioner.load_state_dict(weights, strict=False).unexpected_keys
    if unexpected:
        raise PartsError(f"weights without a place in the captioner: {unexpected}")
