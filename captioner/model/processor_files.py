"""What lies in a processor's directory or repository: `processor_config.json`, tokenizers, feature extractors.

Knows names of files and how to read and write them; what a processor does with what they say is in `processor.py`.
"""

import json
import os
import secrets
from pathlib import Path
from typing import Any

from transformers import AutoFeatureExtractor, AutoTokenizer, PreTrainedConfig
from transformers.utils import cached_file

from .image_settings import ImageSettings
from .images import reason
from .modality_inputs import ModalityInput

PROCESSOR_FILE = "processor_config.json"
CONTEXT_FOLDER = "context_tokenizer"


def read_parts(name: str, subfolder: str, hub_kwargs: dict[str, Any], kind: str) -> dict[str, Any]:
    """What a processor is made of, by the names of its constructor's parameters.

    Args:
        name: a directory, or a repository on the Hub.
        subfolder: where in it.
        hub_kwargs: as in transformers.
        kind: name of the processor's class.

    Raises:
        OSError: no such directory or repository, or no `processor_config.json` in it.
        ValueError: a `processor_config.json` of another class, or one that cannot be read.
    """
    state = _read_state(name, subfolder, hub_kwargs)
    if state.pop("processor_class", None) != kind:
        raise ValueError(f"{PROCESSOR_FILE} in {name} is not of {kind}; try `captioner.load`")

    def load(auto: type, *folders: str, **options: Any) -> Any:
        place = "/".join(folder for folder in (subfolder, *folders) if folder)
        return auto.from_pretrained(name, subfolder=place, **options, **{"trust_remote_code": False} | hub_kwargs)

    state.pop("auto_map", None)
    settings, folder = state.pop("image_settings"), state.pop("context_tokenizer")
    further = state.pop("further", {})
    for own in further.values():
        own["extractor"] = load(AutoFeatureExtractor, own["extractor"]) if own["extractor"] else None
    # With a config given, the model's config.json in the same place is not asked for a class.
    return state | {
        "image_settings": ImageSettings(**settings) if settings else None,
        "tokenizer": load(AutoTokenizer, config=PreTrainedConfig()),
        "context_tokenizer": load(AutoTokenizer, folder, config=PreTrainedConfig()) if folder else None,
        "further": {modality: ModalityInput(**own) for modality, own in further.items()},
    }


def _read_state(name: str, subfolder: str, hub_kwargs: dict[str, Any]) -> dict[str, Any]:
    """The content of `processor_config.json`."""
    if Path(name).is_dir() and not Path(name, subfolder, PROCESSOR_FILE).is_file():
        raise FileNotFoundError(
            f"{Path(name, subfolder)} has no {PROCESSOR_FILE}; give a directory that "
            "`CaptionerProcessor.save_pretrained` wrote"
        )
    try:
        path = cached_file(name, PROCESSOR_FILE, subfolder=subfolder, **hub_kwargs)
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise OSError(f"{name!r} is neither a directory nor at hand on the Hub: {reason(error)}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}; save the processor again") from error


def write_state(directory: Path, state: dict[str, Any]) -> None:
    """Write `processor_config.json`, whole or not at all; a link goes on to lead to its file."""
    file = (directory / PROCESSOR_FILE).resolve()
    unfinished = file.with_name(f".{file.name}.{secrets.token_hex(6)}.tmp")
    try:
        with unfinished.open("w", encoding="utf-8") as written:
            written.write(json.dumps(state, indent=2) + "\n")
            written.flush()
            os.fsync(written.fileno())
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
