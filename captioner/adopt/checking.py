"""What is wrong with a folder that could not be loaded: the first of its files that is broken, in one line.

Knows files of JSON and of safetensors; knows nothing about captioners.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.utils import logging

from ..base import one_line, some

NEEDED_KEYS = {"tokenizer.json": "added_tokens"}  # file → what it always has
UNUSED = "pooler"  # layers that captioners never use, and that many checkpoints lack
LONGEST_REASON = 160  # letters of a foreign error


def reason(source: str | Path, error: BaseException) -> str:
    """Why loading failed: the file of a local folder that cannot be read, else what the error says."""
    return broken_file(Path(source)) or _said(error)


def _said(error: BaseException) -> str:
    text = one_line(error)[:LONGEST_REASON]
    plain = isinstance(error, OSError | ValueError)  # what others say little without their kind
    return text if plain and text else f"{type(error).__name__}: {text}"


def broken_file(path: Path) -> str | None:
    """The first file of a folder that is not whole, and why; None where all can be read, or nothing is there.

    A single file is looked at alone; hidden ones are nobody's.
    """
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        hidden = file.name.startswith(".")
        why = CHECKS[file.suffix](file) if file.suffix in CHECKS and not hidden else None
        if why is not None:
            return f"{file} {why}"
    return None


def _json(file: Path) -> str | None:
    if file.is_dir():
        return "is a folder, not a file"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except (ValueError, RecursionError) as error:
        return f"is empty, cut or no JSON ({_said(error)})" if file.stat().st_size else "is empty"
    if not isinstance(content, dict):
        return f"must hold a JSON object, but holds {str(content)[:40]!r}"
    key = NEEDED_KEYS.get(file.name)
    return None if key is None or key in content else f"has no {key!r}, so it is not what its name says"


def _tensors(file: Path) -> str | None:
    try:
        with safe_open(file, "pt"):
            return None
    except (OSError, SafetensorError) as error:
        return f"is empty, cut or no file of safetensors ({_said(error)})"


CHECKS = {".json": _json, ".safetensors": _tensors}  # suffix → why a file of it cannot be read, None where it can


@contextmanager
def unwarned() -> Iterator[None]:
    """transformers keeps its warnings to itself: for work after which they are asked for, and told as errors."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def misplaced(model: nn.Module, info: dict[str, Any], strict: bool = True) -> str | None:
    """How weights that were loaded are not those of the model, in words; None where they are.

    Args:
        info: what `from_pretrained` says with `output_loading_info`.
        strict: also weights that the model has no place for.
    """
    lacking = [name for name in info["missing_keys"] if UNUSED not in name]
    faults = {"lack": lacking, "have another shape for": _names(info["mismatched_keys"])}
    faults |= {"also hold": info["unexpected_keys"]} if strict else {}
    told = [f"{what} {len(names)} ({some(sorted(names), 3)})" for what, names in faults.items() if names]
    return f"of its {len(model.state_dict())} tensors the weights {' and '.join(told)}" if told else None


def _names(keys: Iterable[Any]) -> list[str]:
    """Names alone; transformers gives some with their shapes."""
    return [key if isinstance(key, str) else key[0] for key in keys]
