"""From names to captioners: load ours by path, Hub id or shipped name; put a new one together from its parts.

Which families of pretrained decoders there are is said in `families.py`.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

from .configuration import CaptionerConfig, DecoderConfig
from .encoders import build_backbone, text_encoder_class
from .families import FAMILIES
from .images import ImageSettings
from .model import Captioner
from .processor import CaptionerProcessor
from .settings import DataSettings, ModelSettings
from .vocabulary import train_tokenizer
from .wording import one_line

SHIPPED = Path(__file__).parent / "shipped"


class AdoptError(ValueError):
    """A captioner that cannot be loaded or put together; the message says what would work."""


def shipped_names() -> list[str]:
    """The captioners inside the package."""
    return sorted(folder.name for folder in SHIPPED.glob("*") if folder.is_dir())


def load(path_or_hub_id: str | Path, **kwargs: Any) -> tuple[Captioner, CaptionerProcessor]:
    """Load a captioner and its processor, in evaluation mode.

    Args:
        path_or_hub_id: a shipped name ("scenes-separate"), a directory, or a Hub repository.
        kwargs: for `Captioner.from_pretrained`, such as `dtype` or `device_map`.

    Raises:
        AdoptError: nothing there, or an architecture that is not ours.
    """
    source = str(path_or_hub_id)
    if source in shipped_names():
        source, kwargs = str(SHIPPED / source), {"dtype": torch.float32, **kwargs}
    config = _read_config(source)
    if not isinstance(config, CaptionerConfig):
        raise AdoptError(
            f"{source} holds a {config.model_type!r} model; captioner loads checkpoints of model type 'captioner'"
        )
    model, processor = Captioner.from_pretrained(source, **kwargs), CaptionerProcessor.from_pretrained(source)
    processor.check_model(model.config)
    return model, processor


def _read_config(source: str) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise AdoptError(
            f"cannot load a captioner from {source!r}: give a directory with config.json, a Hub repository that can "
            f"be reached, or one of {shipped_names()} ({one_line(error)[:160]})"
        ) from error


def assemble(
    model: ModelSettings, data: DataSettings, texts: Callable[[], Iterable[str]]
) -> tuple[Captioner, CaptionerProcessor]:
    """Put together the captioner that a run's settings describe, new or from pretrained parts.

    1. tokenizers: pretrained with a pretrained part, else trained on `texts`;
    2. the configuration, with the vocabulary and special tokens of the tokenizers;
    3. the model with random weights, then the pretrained parts' weights.

    Raises:
        AdoptError: a part that is missing or of a family that is not supported.
    """
    if model.init_from is not None:
        return load(model.init_from)
    tokenizer = _caption_tokenizer(model, data, texts)
    context_tokenizer = (
        _pretrained(AutoTokenizer, model.context_encoder) if isinstance(model.context_encoder, str) else None
    )
    config = _configuration(model, len(tokenizer), len(context_tokenizer or tokenizer))
    processor = CaptionerProcessor(
        ImageSettings.for_encoder(config.image_encoder) if config.image_encoder is not None else None,
        tokenizer,
        context_tokenizer,
        max_caption_length=data.max_caption_length,
        max_context_length=data.max_context_length,
    )
    config.bos_token_id = config.decoder_start_token_id = processor.start_token_id
    config.eos_token_id, config.pad_token_id = processor.eos_token_id, processor.pad_token_id
    processor.check_model(config)
    captioner = Captioner(config)
    _load_pretrained_parts(captioner, model)
    return captioner, processor


def _caption_tokenizer(model: ModelSettings, data: DataSettings, texts: Callable[[], Iterable[str]]) -> Any:
    if isinstance(model.decoder, str):
        return _pretrained(AutoTokenizer, model.decoder)
    if isinstance(data.tokenizer, str):
        return _pretrained(AutoTokenizer, data.tokenizer)
    return train_tokenizer(texts(), **data.tokenizer.model_dump())


def _pretrained(auto: type, name: str) -> Any:
    try:
        return auto.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise AdoptError(
            f"cannot load the pretrained part {name!r}: give a local directory or a Hub repository that can be "
            f"reached ({one_line(error)[:160]})"
        ) from error


def _configuration(model: ModelSettings, vocabulary: int, context_vocabulary: int) -> CaptionerConfig:
    image = {k: v for k, v in model.image_encoder.items() if k != "pretrained"} if model.image_encoder else None
    context = model.context_encoder
    if isinstance(context, str):
        context = _pretrained(AutoConfig, context)
    elif context is not None:
        context = AutoConfig.for_model(**{"vocab_size": context_vocabulary, **context})
    decoder = _decoder_configuration(model.decoder, vocabulary)
    if model.dropout is not None:
        decoder.dropout = model.dropout
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout_rate"):
            if hasattr(context, name):
                setattr(context, name, model.dropout)
    return CaptionerConfig(
        image_encoder=image,
        context_encoder=context,
        decoder=decoder,
        conditioning=model.conditioning,
        fusion=model.fusion,
        modality_order=model.modality_order,
    )


def _decoder_configuration(decoder: dict[str, Any] | str, vocabulary: int) -> DecoderConfig:
    if isinstance(decoder, dict):
        return DecoderConfig(**{"vocab_size": vocabulary, **decoder})
    source = _pretrained(AutoConfig, decoder)
    if source.model_type not in FAMILIES:
        raise AdoptError(
            f"`model.decoder` must be of a family in {sorted(FAMILIES)}, but {decoder} is {source.model_type!r}"
        )
    return FAMILIES[source.model_type][0](source)


def _load_pretrained_parts(captioner: Captioner, model: ModelSettings) -> None:
    if model.image_encoder is not None and model.image_encoder.get("pretrained"):
        _load_timm(captioner.encoder.image.backbone, model.image_encoder)
    if isinstance(model.context_encoder, str):
        source = _pretrained(text_encoder_class(captioner.config.context_encoder), model.context_encoder)
        captioner.encoder.context.model.load_state_dict(source.state_dict(), strict=False)
    if isinstance(model.decoder, str):
        source = _pretrained(AutoModelForCausalLM, model.decoder)
        _fill(captioner.decoder, FAMILIES[source.config.model_type][1](source))


def _load_timm(backbone: nn.Module, image_encoder: dict[str, Any]) -> None:
    """Weights from the Hub (`pretrained: true`) or a local file (`pretrained: path`), resized to the image size."""
    pretrained = image_encoder["pretrained"]
    options = {k: v for k, v in image_encoder.items() if k != "pretrained"}
    if isinstance(pretrained, str):
        if not Path(pretrained).is_file():
            raise AdoptError(f"`image_encoder.pretrained` is {pretrained!r}, which is no file; give one, true or false")
        options["pretrained_cfg_overlay"] = {"file": pretrained}
    try:
        source = build_backbone(options, pretrained=True)
    except (OSError, RuntimeError) as error:
        raise AdoptError(
            f"cannot load the weights of {options['name']!r}: the Hub must be reachable, or `image_encoder.pretrained` "
            f"the path of a local file ({one_line(error)[:160]})"
        ) from error
    backbone.load_state_dict(source.state_dict())


def _fill(decoder: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put translated weights in; what they do not name (the cross-attention) stays new."""
    unexpected = decoder.load_state_dict(weights, strict=False).unexpected_keys
    if unexpected:
        raise AdoptError(f"weights without a place in the decoder: {unexpected}")
