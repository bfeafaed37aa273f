"""From names to captioners: load ours by path, Hub id or shipped name, or build what a run's settings describe."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from .configuration import CaptionerConfig
from .model import Captioner
from .parts import from_parts, pretrained
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
        return pretrained(AutoTokenizer, data.tokenizer)
    return train_tokenizer(texts(), **data.tokenizer.model_dump())
