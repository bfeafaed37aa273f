"""Where a processor's settings lie: `processor_config.json` of a directory or of a repository on the Hub."""

import json
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from .images import reason

PROCESSOR_FILE = "processor_config.json"


def read_state(name: str, subfolder: str, hub_kwargs: dict[str, Any]) -> dict[str, Any]:
    """The content of `processor_config.json`.

    Raises:
        OSError: no such directory or repository, or no such file in it.
        ValueError: a file that cannot be read.
    """
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
