"""From names to captioners: load by path, Hub id or shipped name, or build what a run's settings describe.

Knows where names lead; how a captioner of another architecture is taken over is said in `foreign.py`.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from ..base import DataSettings, ModelSettings, one_line
from ..model import Captioner, CaptionerConfig, CaptionerProcessor
from .foreign import ARCHITECTURES, SUPPORTED, adopt
from .parts import from_parts
from .pretrained import SHIPPED, load_part
from .vocabulary import train_tokenizer

DEFAULT_MODEL = "Salesforce/blip-image-captioning-base"
HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")


class AdoptError(ValueError):
    """A captioner that cannot be loaded or put together; the message says what would work."""


def shipped_names() -> list[str]:
    """The captioners inside the package."""
    return sorted(folder.name for folder in SHIPPED.glob("*") if folder.is_dir())


def load(path_or_hub_id: str | Path | None = None, **kwargs: Any) -> tuple[Captioner, CaptionerProcessor]:
    """Load a captioner and its processor, in evaluation mode; what is not ours becomes ours with the same outputs.

    Args:
        path_or_hub_id: a shipped name ("scenes-separate"), a directory, or a Hub repository; of our own checkpoints,
            or of what transformers saved of one of `foreign.ARCHITECTURES`. None: `DEFAULT_MODEL`.
        kwargs: for `from_pretrained`, such as `dtype`, `attn_implementation`, `revision` or `token`.

    Raises:
        AdoptError: nothing or not everything there, or an architecture that is not supported.
        ForeignError, FamilyError: one that is, with a part that ours cannot express.
    """
    source = str(path_or_hub_id or DEFAULT_MODEL)
    if source in shipped_names():
        source, kwargs = str(SHIPPED / source), {"dtype": torch.float32, **kwargs}
    hub = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
    config = _read_config(source, hub)
    model_type = config.get("model_type")
    if model_type not in LOADERS:
        raise AdoptError(
            f"{source} holds a model of type {model_type!r}; captioner loads its own checkpoints, and {SUPPORTED}"
        )
    try:
        model, processor = LOADERS[model_type](source, config, hub, **kwargs)
    except OSError as error:
        raise AdoptError(
            f"{source} lacks a part of a captioner; save both the model and its processor there "
            f"({one_line(error)[:160]})"
        ) from error
    processor.check_model(model.config)
    return model, processor


def _read_config(source: str, hub: dict[str, Any]) -> dict[str, Any]:
    try:
        return PreTrainedConfig.get_config_dict(source, **hub)[0]
    except (OSError, ValueError) as error:
        without = "without a model, the default is taken, but " if source == DEFAULT_MODEL else ""
        raise AdoptError(
            f"{without}cannot load a captioner from {source!r}: give a directory with config.json, a Hub repository "
            f"that can be reached, or one of {shipped_names()}; `captioner demo` needs no network "
            f"({one_line(error)[:160]})"
        ) from error


def _load_ours(
    source: str, config: dict[str, Any], hub: dict[str, Any], **kwargs: Any
) -> tuple[Captioner, CaptionerProcessor]:
    return (
        Captioner.from_pretrained(source, **hub, **kwargs),
        CaptionerProcessor.from_pretrained(source, **hub),
    )


# Model type in config.json → what loads it.
LOADERS = {CaptionerConfig.model_type: _load_ours, **dict.fromkeys(ARCHITECTURES, adopt)}


def assemble(
    model: ModelSettings, data: DataSettings, texts: Callable[[], Iterable[str]]
) -> tuple[Captioner, CaptionerProcessor]:
    """The captioner that a run's settings describe: a checkpoint to start from, or its parts, new or pretrained.

    The caption tokenizer comes with a pretrained decoder, by name, or is trained on `texts`.

    Raises:
        AdoptError, PartsError: a checkpoint or a part that is missing or of a family that is not supported.
    """
    if model.init_from is not None:
        return load(model.init_from)
    return from_parts(
        **model.model_dump(exclude={"init_from"}),
        tokenizer=None if isinstance(model.decoder, str) else _caption_tokenizer(data, texts),
        max_caption_length=data.max_caption_length,
        max_context_length=data.max_context_length,
    )


def _caption_tokenizer(data: DataSettings, texts: Callable[[], Iterable[str]]) -> PreTrainedTokenizerBase:
    if isinstance(data.tokenizer, str):
        return load_part(AutoTokenizer, data.tokenizer)
    return train_tokenizer(texts(), **data.tokenizer.model_dump())
