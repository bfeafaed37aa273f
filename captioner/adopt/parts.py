"""A captioner put together from its parts: pretrained ones by name or directory, new ones by configuration.

Knows how parts are joined; `pretrained.py` knows how they are loaded, and `language_models.py` what each family of
decoders looks like.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from transformers import AutoConfig, AutoFeatureExtractor, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.feature_extraction_utils import FeatureExtractionMixin

from ..model import (
    Captioner,
    CaptionerConfig,
    CaptionerProcessor,
    DecoderConfig,
    ImageSettings,
    ModalityInput,
    check_known,
)
from .language_models import FAMILIES
from .pretrained import (
    PartsError,
    load_context_weights,
    load_decoder_weights,
    load_modality_weights,
    load_part,
    load_timm_weights,
)
from .silent import keep_silent

FURTHER_OPTIONS = ("modality_order", "memory", "memory_width", "max_images", "context_window")  # of `from_parts`


@dataclass(frozen=True)
class Parts:
    """The parts that are asked for, each a pretrained one (a name or directory) or the shape of a new one.

    Args:
        image_encoder: as in `CaptionerConfig`, with `pretrained`; None: the captioner does not look.
        context_encoder: a name or a configuration; None: it does not read.
        decoder: a name or a `DecoderConfig` as a dict.
        encoders: further modalities by name.
        dropout: of decoder and context encoder; None keeps theirs.
    """

    image_encoder: dict[str, Any] | None = None
    context_encoder: PreTrainedConfig | dict[str, Any] | str | None = None
    decoder: dict[str, Any] | str = field(default_factory=dict)
    encoders: Mapping[str, dict[str, Any] | str] = field(default_factory=dict)
    dropout: float | None = None


class Tokenizers(NamedTuple):
    """The tokenizer of captions and, where it has its own, that of a pretrained context encoder."""

    captions: PreTrainedTokenizerBase
    own_of_context: PreTrainedTokenizerBase | None

    @property
    def context(self) -> PreTrainedTokenizerBase:
        """What contexts are read with."""
        return self.own_of_context or self.captions


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
        decoder: name or directory of a language model of one of `FAMILIES`; or a `DecoderConfig` as a dict.
        conditioning, fusion: as in `CaptionerConfig`; "separate" with "gated" leaves the language model's logits as
            they are until it is trained.
        encoders: further modalities by name, each as in `CaptionerConfig` or name or directory of a transformers
            encoder, whose feature extractor then comes along.
        dropout: of decoder and context encoder; None keeps theirs.
        tokenizer: of captions; None: the pretrained decoder's. A new context encoder reads with it too.
        max_caption_length, max_context_length: as in `CaptionerProcessor`.
        options: those of `FURTHER_OPTIONS`, as in `CaptionerConfig`.

    Raises:
        TypeError: an option that there is not.
        PartsError: a part that cannot be loaded, is of a family that is not supported or does not fit the others.
    """
    unknown = sorted(set(options) - set(FURTHER_OPTIONS))
    if unknown:
        raise TypeError(f"from_parts takes {', '.join(FURTHER_OPTIONS)}, but not {', '.join(unknown)}")
    image_encoder = timm_encoder(image_encoder) if isinstance(image_encoder, str) else image_encoder
    parts = Parts(image_encoder, context_encoder, decoder, encoders or {}, dropout)
    tokenizers = _tokenizers(parts, tokenizer)
    try:
        config = _configuration(parts, tokenizers, conditioning=conditioning, fusion=fusion, **options)
        processor = _processor(parts, tokenizers, config, max_caption_length, max_context_length)
        config.bos_token_id = config.decoder_start_token_id = processor.start_token_id
        config.eos_token_id, config.pad_token_id = processor.eos_token_id, processor.pad_token_id
        processor.check_model(config)
        captioner = Captioner(config)
    except ValueError as error:
        raise PartsError(str(error)) from error
    keep_silent(captioner, processor)
    load_pretrained_parts(captioner, parts)
    return captioner.eval(), processor


def timm_encoder(name: str) -> dict[str, Any]:
    """An image encoder by its timm name or Hub id, with its weights from the Hub."""
    return {"name": name.removeprefix("timm/"), "pretrained": True}


def _tokenizers(parts: Parts, given: PreTrainedTokenizerBase | None) -> Tokenizers:
    """The one given, or the pretrained decoder's; and the pretrained context encoder's."""
    if given is None and not isinstance(parts.decoder, str):
        raise PartsError("a new decoder knows no words: give `tokenizer`, or `decoder` as the name of a pretrained one")
    captions = load_part(AutoTokenizer, parts.decoder) if given is None else given
    reads = isinstance(parts.context_encoder, str)
    return Tokenizers(captions, load_part(AutoTokenizer, parts.context_encoder) if reads else None)


def _configuration(parts: Parts, tokenizers: Tokenizers, **options: Any) -> CaptionerConfig:
    """The captioner's, with the shapes of its parts; `options` as in `CaptionerConfig`."""
    image = parts.image_encoder
    config = CaptionerConfig(
        image_encoder={k: v for k, v in image.items() if k != "pretrained"} if image else None,
        context_encoder=context_configuration(parts.context_encoder, len(tokenizers.context), parts.dropout),
        decoder=_decoder_configuration(parts.decoder, len(tokenizers.captions), parts.dropout),
        encoders={name: modality_shape(name, encoder) for name, encoder in parts.encoders.items()},
        **options,
    )
    if config.context_window:
        config.context_window = special_ids(tokenizers.context) | config.context_window
    return config


def _processor(
    parts: Parts, tokenizers: Tokenizers, config: CaptionerConfig, max_caption_length: int, max_context_length: int
) -> CaptionerProcessor:
    """What makes the inputs of these parts; lengths in tokens."""
    return CaptionerProcessor(
        ImageSettings.for_encoder(config.image_encoder) if config.image_encoder is not None else None,
        tokenizers.captions,
        tokenizers.own_of_context,
        max_caption_length,
        max_context_length,
        max_images=config.max_images,
        further=modality_inputs(parts.encoders, config),
    )


def context_configuration(
    context: PreTrainedConfig | dict[str, Any] | str | None, vocabulary: int, dropout: float | None = None
) -> PreTrainedConfig | None:
    """The configuration of a text encoder, given one, its dict, or a pretrained one's name or directory.

    A pretrained one is computed in the captioner's dtype, whatever its weights were saved in.

    Args:
        vocabulary: tokens that the encoder must know, where its dict does not say how many it knows.
        dropout: None keeps its own.

    Raises:
        PartsError: a name or directory without a configuration.
    """
    if isinstance(context, str):
        context = load_part(AutoConfig, context).get_text_config()
        context.dtype = None
    elif isinstance(context, dict):
        context = _new_encoder("context_encoder", {"vocab_size": vocabulary, **context})
    if dropout is not None:
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout_rate"):
            if hasattr(context, name):
                setattr(context, name, dropout)
    return context


def _decoder_configuration(decoder: dict[str, Any] | str, vocabulary: int, dropout: float | None) -> DecoderConfig:
    if isinstance(decoder, dict):
        config = DecoderConfig(**{"vocab_size": vocabulary, **decoder})
    else:
        source = load_part(AutoConfig, decoder)
        if source.model_type not in FAMILIES:
            raise PartsError(
                f"`decoder` must be of a family in {sorted(FAMILIES)}, but {decoder} is {source.model_type!r}"
            )
        config = FAMILIES[source.model_type].configuration(source)
    if dropout is not None:
        config.dropout = dropout
    return config


def special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """The ids that a tokenizer puts before and after a text: what windows of a text need too."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
    first, after = special.index(0), len(special) - special[::-1].index(0)
    return {"opening": ids[:first], "closing": ids[after:]}


def _new_encoder(where: str, shape: dict[str, Any]) -> PreTrainedConfig:
    """The configuration of a new encoder of transformers, given as a dict with `model_type`."""
    config = AutoConfig.for_model(**shape)
    check_known(where, type(config), shape)
    return config


def modality_shape(name: str, encoder: dict[str, Any] | str) -> dict[str, Any]:
    """One of `CaptionerConfig.encoders`, given it or a pretrained encoder's name or directory."""
    if not isinstance(encoder, str):
        if "model_type" in encoder:
            _new_encoder(f"encoders.{name}", encoder)
        return encoder
    config = load_part(AutoConfig, encoder)
    return {"model_type": config.model_type} | config.to_diff_dict() | {"dtype": None}


def modality_inputs(encoders: Mapping[str, dict[str, Any] | str], config: CaptionerConfig) -> dict[str, ModalityInput]:
    """What a processor must know of each further modality."""
    return {
        name: ModalityInput.for_encoder(config.encoders[name], _extractor(encoder))
        for name, encoder in encoders.items()
    }


def _extractor(encoder: dict[str, Any] | str) -> FeatureExtractionMixin | None:
    """That of a pretrained encoder; None where it has none, so that its inputs come as arrays."""
    if not isinstance(encoder, str):
        return None
    try:
        return AutoFeatureExtractor.from_pretrained(encoder, trust_remote_code=False)
    except (OSError, ValueError):
        return None


def load_pretrained_parts(captioner: Captioner, parts: Parts) -> None:
    """Put pretrained weights into the parts that are named; parts given as configurations stay as they are.

    Raises:
        PartsError: weights that are not there or do not fit.
    """
    if parts.image_encoder is not None and parts.image_encoder.get("pretrained"):
        load_timm_weights(captioner.encoder.image.backbone, parts.image_encoder)
    if isinstance(parts.context_encoder, str):
        load_context_weights(captioner, parts.context_encoder)
    for name, encoder in parts.encoders.items():
        if isinstance(encoder, str):
            load_modality_weights(captioner.encoder.further[name], encoder)
    if isinstance(parts.decoder, str):
        load_decoder_weights(captioner, parts.decoder)
