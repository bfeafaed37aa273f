"""Further modalities from pretrained parts: configuration, weights and feature extractor of a transformers encoder.

Knows names and directories; what such an encoder does is in `further.py`.
"""

from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel
from transformers.feature_extraction_utils import FeatureExtractionMixin

from .configuration import CaptionerConfig
from .further import TransformersEncoder
from .further_inputs import FurtherInput
from .wording import one_line


class PartsError(ValueError):
    """A part that is missing or cannot be used; the message says what would work."""


def pretrained(auto: type, name: str, **options: Any) -> Any:
    """Load a part by name or directory with one of transformers' auto classes; errors say what would work."""
    try:
        return auto.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise PartsError(
            f"cannot load the pretrained part {name!r}: give a local directory or a Hub repository that can be "
            f"reached ({one_line(error)[:160]})"
        ) from error


def further_shape(encoder: dict[str, Any] | str) -> dict[str, Any]:
    """One of `CaptionerConfig.encoders`, given it or a pretrained encoder's name or directory."""
    if not isinstance(encoder, str):
        return encoder
    config = pretrained(AutoConfig, encoder)
    return {"model_type": config.model_type} | config.to_diff_dict() | {"dtype": None}


def further_inputs(encoders: Mapping[str, dict[str, Any] | str], config: CaptionerConfig) -> dict[str, FurtherInput]:
    """What a processor must know of each further modality."""
    return {
        name: FurtherInput.for_encoder(config.encoders[name], _extractor(encoder)) for name, encoder in encoders.items()
    }


def _extractor(encoder: dict[str, Any] | str) -> FeatureExtractionMixin | None:
    """That of a pretrained encoder; None where it has none, so that its inputs come as arrays."""
    if not isinstance(encoder, str):
        return None
    try:
        return AutoFeatureExtractor.from_pretrained(encoder)
    except (OSError, ValueError):
        return None


def load_further(part: TransformersEncoder, name: str) -> None:
    """Put a pretrained encoder's weights in."""
    source = pretrained(AutoModel, name)
    source = source.get_encoder() if source.config.is_encoder_decoder else source
    part.model.load_state_dict(source.state_dict(), strict=False)
