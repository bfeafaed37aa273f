"""What stands in one cell of a table: captions, a context, the names of images; also where a list is written as text.

Knows nothing about columns or files.
"""

import ast
import json
import re
from typing import Any

from .faults import DataError

QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
WRITTEN_LIST = re.compile(rf"\[\s*(?:(?:{QUOTED})[\s,]*)*\]", re.DOTALL)  # by pandas, NumPy and JSON


def listed(value: Any) -> Any:
    """The list that a text holds, such as "['a dog', 'a cat']"; any other value as it is.

    Raises:
        DataError: a text that begins like such a list and ends like one, but is none.
    """
    if not isinstance(value, str) or not value.startswith("["):
        return value
    text = value.strip()
    if WRITTEN_LIST.fullmatch(text):
        return [_unquoted(found) for found in re.findall(QUOTED, text, re.DOTALL)]
    if text.startswith(("['", '["')) and text.endswith("]"):
        raise DataError(f"a cell looks like a list and is none: {text[:60]!r}; write it as JSON, or one caption a row")
    return value


def _unquoted(text: str) -> str:
    try:
        return json.loads(text)
    except ValueError:
        return ast.literal_eval(text)


def captions_in(value: Any) -> tuple[list[str], bool]:
    """The captions in one cell without blank ones, and whether there were any of those.

    Raises:
        DataError: something that is no text, or as in `listed`.
    """
    value = listed(value)
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(texts, list) or not all(isinstance(text, str | None) for text in texts):
        raise DataError(f"captions must be text or lists of text, but one is {value!r}; set `data.caption_column`")
    kept = [text.strip() for text in texts if text and text.strip()]
    return kept, len(kept) < len(texts)


def context_in(value: Any) -> str | None:
    """The context in one cell; lists are joined.

    Raises:
        DataError: as in `listed`.
    """
    value = listed(value)
    text = ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
    return text.strip() or None
