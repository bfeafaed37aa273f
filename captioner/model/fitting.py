"""Do a processor and a model fit together? Everything that does not, and what to change.

Knows a processor by what it says of itself, and a model by its configuration; knows nothing about tensors.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol

from transformers import PreTrainedTokenizerBase as AnyTokenizer

from .configuration import CaptionerConfig
from .image_options import two_sides
from .image_settings import ImageSettings
from .modality_inputs import ModalityInput


class Feeding(Protocol):
    """What must be known of whatever feeds a model; meanings are those of `CaptionerProcessor`'s arguments."""

    image_settings: ImageSettings | None
    tokenizer: AnyTokenizer
    context_tokenizer: AnyTokenizer | None
    max_caption_length: int
    max_context_length: int
    start_token_id: int
    eos_token_id: int
    pad_token_id: int
    max_images: int
    further: Mapping[str, ModalityInput]


def misfits(processor: Feeding, config: CaptionerConfig) -> list[str]:
    """What does not fit, a phrase each; empty where all does."""
    return [problem for check in (_tokens, _images, _context, _modalities) for problem in check(processor, config)]


def _tokens(processor: Feeding, config: CaptionerConfig) -> Iterator[str]:
    ids = {
        "decoder_start_token_id": processor.start_token_id,
        "eos_token_id": processor.eos_token_id,
        "pad_token_id": processor.pad_token_id,
    }
    needed = 1 + max(*ids.values(), *processor.tokenizer.get_vocab().values())
    yield from _too_small("decoder.vocab_size", config.decoder.vocab_size, needed, "the tokenizer")
    yield from _too_small(
        "decoder.max_positions",
        config.decoder.max_positions,
        processor.max_caption_length,
        "`max_caption_length`",
    )
    for key, ours in ids.items():
        theirs = getattr(config, key)
        may_lack = key == "pad_token_id" and theirs is None
        if not may_lack and ours not in (theirs if isinstance(theirs, list) else [theirs]):
            yield f"`{key}` is {theirs} in the config but {ours} in the processor; make them equal"


def _images(processor: Feeding, config: CaptionerConfig) -> Iterator[str]:
    settings, encoder = processor.image_settings, config.image_encoder
    if encoder is None:
        if settings is not None:
            yield "the model has no image encoder; set the processor's `image_settings` to None"
        return
    if settings is None:
        yield "the model has an image encoder; give `image_settings=ImageSettings.for_encoder(…)`"
        return
    ours = (settings.height, settings.width)
    theirs = two_sides(encoder.get("image_size") or ours)
    if theirs != ours and not encoder.get("dynamic_img_size"):
        yield f"`image_encoder.image_size` is {theirs}, but `image_settings` are {ours}; make them equal"


def _context(processor: Feeding, config: CaptionerConfig) -> Iterator[str]:
    encoder = config.context_encoder
    if encoder is None:
        return
    needed = 1 + max((processor.context_tokenizer or processor.tokenizer).get_vocab().values())
    yield from _too_small("context_encoder.vocab_size", encoder.vocab_size, needed, "the context tokenizer")
    longest, limit = processor.max_context_length, "`max_context_length`"
    if config.context_window:
        longest, limit = config.context_window["length"], "`context_window.length`"
    positions = getattr(encoder, "max_position_embeddings", None) or longest
    yield from _too_small("context_encoder.max_position_embeddings", positions, longest, limit)


def _modalities(processor: Feeding, config: CaptionerConfig) -> Iterator[str]:
    if sorted(processor.further) != sorted(config.encoders):
        yield f"the model has `encoders` {sorted(config.encoders)}, but the processor {sorted(processor.further)}"
    for name, shape in config.encoders.items():
        ours = processor.further[name].feature_size if name in processor.further else shape.get("feature_size")
        if ours != shape.get("feature_size"):
            yield f"`encoders.{name}.feature_size` is {shape.get('feature_size')}, but {ours} in the processor"
    if config.image_encoder is not None and processor.max_images > config.max_images:
        yield f"`max_images` is {config.max_images}, but the processor's {processor.max_images}; make them equal"


def _too_small(key: str, value: int, needed: int, by: str) -> Iterator[str]:
    if value < needed:
        yield f"`{key}` is {value}, but {by} needs {needed}; raise the one or shorten the other"
