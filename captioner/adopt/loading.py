"""From names to captioners: load by path, Hub id or shipped name, or build what a run's settings describe.

Knows where names lead; how a captioner of another architecture is taken over is said in `foreign.py`.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from ..base import DataSettings, ModelSettings
from ..model import Captioner, CaptionerConfig, CaptionerProcessor
from .agreement import LENGTHS, check_agreement
from .architecture import ForeignError
from .checking import broken_file, reason, unwarned
from .foreign import ARCHITECTURES, SUPPORTED, adopt
from .language_models import FamilyError
from .locating import CONFIG, AdoptError, is_shipped, located, remedy
from .parts import from_parts
from .pretrained import PartsError, load_part, whole_model
from .silent import keep_silent
from .vocabulary import train_tokenizer

DEFAULT_MODEL = "Salesforce/blip-image-captioning-base"
HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
GENERATION_CONFIG = "generation_config.json"
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
KNOWN_SHARE = 0.5  # of the decoder's tokens that a tokenizer spells at least; fewer are another captioner's, or lost


def load(path_or_hub_id: str | Path | None = None, **kwargs: Any) -> tuple[Captioner, CaptionerProcessor]:
    """Load a captioner and its processor, in evaluation mode; what is not ours becomes ours with the same outputs.

    No code that lies beside a captioner is run; weights are read as tensors alone.

    Args:
        path_or_hub_id: a directory, a shipped name ("scenes-separate"), or a Hub repository; of our own checkpoints,
            or of what transformers saved of one of `foreign.ARCHITECTURES`. None: `DEFAULT_MODEL`.
        kwargs: for `from_pretrained`, such as `dtype`, `attn_implementation`, `revision` or `token`.

    Raises:
        AdoptError: nothing or not everything there, a file that is broken or belongs to another captioner, or an
            architecture that is not supported.
        ForeignError, FamilyError: one that is, with a part that ours cannot express.
    """
    hub = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
    source = located(str(path_or_hub_id or DEFAULT_MODEL), hub.get("subfolder") or "")
    if is_shipped(source):
        kwargs = {"dtype": torch.float32, **kwargs}
    config = _read_config(source, hub)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in LOADERS:
        raise AdoptError(
            f"{source} holds a model of type {model_type!r}; captioner loads its own checkpoints, and {SUPPORTED}"
        )
    _check_search(_folder(source, hub))
    with _explaining(source, hub):
        model, processor = LOADERS[model_type](source, config, hub, **kwargs)
        _check_fit(source, model, processor)
    return model, processor


def _read_config(source: str, hub: dict[str, Any]) -> dict[str, Any]:
    with _explaining(source, hub):
        try:
            config = PreTrainedConfig.get_config_dict(source, **hub)[0]
        except (OSError, ValueError) as error:
            if Path(source).is_dir():
                raise
            without = "without a model, the default is taken, but " if source == DEFAULT_MODEL else ""
            raise AdoptError(
                f"{without}cannot load a captioner from {source!r}: {remedy()} ({reason(source, error)})"
            ) from error
        if not isinstance(config, dict):
            raise TypeError(f"{CONFIG} must hold a JSON object, but holds {str(config)[:40]!r}")
    return config


def _folder(source: str, hub: dict[str, Any]) -> Path:
    return Path(source, hub.get("subfolder") or "")


@contextmanager
def _explaining(source: str, hub: dict[str, Any]) -> Iterator[None]:
    """Turn whatever goes wrong while a captioner is put together into one line that names the file at fault.

    transformers keeps silent meanwhile: what it would warn of (weights that are missing) is an error here.
    """
    try:
        with unwarned():
            yield
    except (AdoptError, ForeignError, FamilyError, PartsError):
        raise
    except Exception as error:
        folder = _folder(source, hub)
        if isinstance(error, OSError) and broken_file(folder) is None:
            told = f"{source} lacks a part of a captioner; save both the model and its processor there"
            raise AdoptError(f"{told} ({reason(folder, error)})") from error
        told = f"cannot load a captioner from {source!r}: {reason(folder, error)}"
        raise AdoptError(f"{told}; save or copy it anew, all files of it") from error


def _load_ours(
    source: str, config: dict[str, Any], hub: dict[str, Any], **kwargs: Any
) -> tuple[Captioner, CaptionerProcessor]:
    model = whole_model(Captioner, source, **hub, **kwargs)
    for name in TOKEN_IDS:
        if getattr(model.generation_config, name) is None:
            setattr(model.generation_config, name, getattr(model.config, name))
    processor = CaptionerProcessor.from_pretrained(source, **hub)
    keep_silent(model, processor)
    return model, processor


def _check_search(folder: Path) -> None:
    """Refuse settings of the search that are broken: transformers would take its own without a word."""
    why = broken_file(folder / GENERATION_CONFIG)
    if why is not None:
        raise AdoptError(f"{why}; save or copy it anew, or remove it: what {CONFIG} says is then taken")


def _check_fit(source: str, model: Captioner, processor: CaptionerProcessor) -> None:
    """Refuse a processor that is not the captioner's, such as one whose tokenizer is empty because its file is lost."""
    try:
        processor.check_model(model.config)
    except ValueError as error:
        raise AdoptError(f"{source}: {error}") from error
    rows = model.config.decoder.vocab_size
    for name in TOKEN_IDS:
        value = getattr(model.generation_config, name)
        ids = value if isinstance(value, list) and value else [value]
        if value is not None and not all(type(own) is int and 0 <= own < rows for own in ids):
            raise AdoptError(f"{source}: {GENERATION_CONFIG} has {name} {value!r}, but tokens are numbers below {rows}")
    known = len(processor.tokenizer)
    if known < KNOWN_SHARE * rows:
        raise AdoptError(
            f"{source}: the tokenizer knows {known} tokens, but the decoder {rows}: it is another one's, or its files "
            "(tokenizer.json, vocab.json) are lost; save the tokenizer that the captioner was trained with"
        )
    for tokenizer in (processor.tokenizer, processor.context_tokenizer):
        if tokenizer is not None and not tokenizer.all_special_ids:
            raise AdoptError(
                f"{source}: a tokenizer names no special token, so its tokenizer_config.json is lost or another one's; "
                "save the processor again"
            )


# Model type in config.json → what loads it.
LOADERS = {CaptionerConfig.model_type: _load_ours, **dict.fromkeys(ARCHITECTURES, adopt)}


def assemble(
    model: ModelSettings, data: DataSettings, texts: Callable[[], Iterable[str]]
) -> tuple[Captioner, CaptionerProcessor]:
    """The captioner that a run's settings describe: a checkpoint to start from, or its parts, new or pretrained.

    The caption tokenizer comes with a pretrained decoder, by name, or is trained on `texts`.

    Raises:
        AdoptError, PartsError: a checkpoint or a part that is missing or of a family that is not supported, or settings
            that would have no effect.
    """
    lengths = {name: getattr(data, name) for name in LENGTHS if getattr(data, name) is not None}
    if model.init_from is not None:
        return _started(model, data, lengths)
    pretrained = isinstance(model.decoder, str)
    if pretrained and "tokenizer" in data.model_dump(exclude_defaults=True):
        raise AdoptError(
            f"`data.tokenizer` is set, but a pretrained decoder comes with its own, and `model.decoder` is "
            f"{model.decoder}; leave `data.tokenizer` out"
        )
    return from_parts(
        **model.model_dump(exclude={"init_from"}),
        tokenizer=None if pretrained else _caption_tokenizer(data, texts),
        **lengths,
    )


def _started(model: ModelSettings, data: DataSettings, lengths: dict[str, int]) -> tuple[Captioner, CaptionerProcessor]:
    """The checkpoint that a run starts from, with the lengths that the run asks for."""
    captioner, processor = load(model.init_from)
    check_agreement(model, data, captioner.config, processor.tokenizer)
    vars(processor).update(lengths)
    _check_fit(model.init_from, captioner, processor)
    if not captioner.generation_config.suppress_tokens:  # another architecture's, which learns from here on
        captioner.generation_config.suppress_tokens = None
        keep_silent(captioner, processor)
    return captioner, processor


def _caption_tokenizer(data: DataSettings, texts: Callable[[], Iterable[str]]) -> PreTrainedTokenizerBase:
    if isinstance(data.tokenizer, str):
        return load_part(AutoTokenizer, data.tokenizer)
    return train_tokenizer(texts(), **data.tokenizer.model_dump())
