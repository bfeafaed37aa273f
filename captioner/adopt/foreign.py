"""Captioners of other architectures as ours: shape, weights and processor.

Each architecture is loaded by transformers itself and then translated in memory, so old and sharded files need no care
here. Knows what every `ForeignCaptioner` has; knows nothing about any one architecture.
"""

import math
from typing import Any

from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from ..model import Captioner, CaptionerConfig, CaptionerProcessor, DecoderConfig, ImageSettings
from .architecture import ForeignCaptioner, ForeignError
from .blip import BLIP
from .checking import reason
from .language_models import module
from .silent import leave_as_trained
from .vision_encoder_decoder import VISION_ENCODER_DECODER

# Model type in config.json → how such captioners are taken over.
ARCHITECTURES = {"vision-encoder-decoder": VISION_ENCODER_DECODER, "blip": BLIP}
SUPPORTED = " and ".join(architecture.supported for architecture in ARCHITECTURES.values())
PIL_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL's numbers, which transformers saves
MAX_CAPTION_LENGTH = 40


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
        ForeignError, FamilyError: one that is not supported, has a part that ours cannot express, or lacks its image
            processor or its tokenizer.
        OSError: no weights.
    """
    architecture = ARCHITECTURES[config["model_type"]]
    reason = architecture.refusal(config)
    if reason is not None:
        raise ForeignError(f"{source} {reason}; captioner takes over {SUPPORTED}")
    found = architecture.load(source, **hub, **kwargs)
    images = _beside(source, "image processor", AutoImageProcessor, hub)
    tokenizer = _beside(source, "tokenizer", AutoTokenizer, hub)
    decoder = found.family.configuration(found.decoder.config)
    processor = _processor(found.generation, image_settings(images), tokenizer, decoder.max_positions)
    return _translate(found, decoder, processor, attn_implementation), processor


def _beside(source: str, what: str, auto: type, hub: dict[str, Any]) -> Any:
    """What lies beside the model, loaded by one of transformers' auto classes; code that lies there is not run."""
    try:
        return auto.from_pretrained(source, trust_remote_code=False, **hub)
    except Exception as error:
        raise ForeignError(
            f"{source} has no {what} that can be loaded; `save_pretrained` the one that the model was trained with "
            f"there ({reason(source, error)})"
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
    found: ForeignCaptioner, decoder: DecoderConfig, processor: CaptionerProcessor, attn_implementation: str | None
) -> Captioner:
    head, embedding = found.decoder.get_output_embeddings(), found.decoder.get_input_embeddings()
    decoder.tie_word_embeddings = head.weight is embedding.weight
    eos = found.generation.eos_token_id
    tokens = {
        "bos_token_id": processor.start_token_id,
        "decoder_start_token_id": processor.start_token_id,
        "eos_token_id": processor.eos_token_id if eos is None else eos,
        "pad_token_id": processor.pad_token_id,
    }
    config = CaptionerConfig(
        image_encoder=found.image_family.configuration(found.encoder.config),
        decoder=decoder,
        memory_width=found.memory_width,
        **tokens,
    )
    captioner = AutoModel.from_config(config, dtype=found.decoder.dtype, attn_implementation=attn_implementation)
    captioner.load_state_dict(_weights(found))
    captioner.generation_config = found.generation
    captioner.generation_config.update(**tokens)
    leave_as_trained(captioner)
    return captioner.to(found.decoder.device).eval()


def _weights(found: ForeignCaptioner) -> dict[str, Tensor]:
    """Everything under its name in `Captioner`."""
    image = found.image_family.weights(found.encoder)
    return {
        **{f"encoder.image.backbone.{name}": weight for name, weight in image.items()},
        **({} if found.projection is None else module("encoder.projections.image", found.projection)),
        **found.family.weights(found.decoder),
        **found.family.cross_attention(found.decoder),
    }


def image_settings(processor: Any) -> ImageSettings:
    """Read a transformers image processor that resizes to a fixed size and may cut out the middle.

    Raises:
        ForeignError: one that does anything else.
    """
    size, middle = processor.size, processor.crop_size if processor.do_center_crop else processor.size
    interpolation = PIL_RESAMPLING.get(processor.resample)
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
