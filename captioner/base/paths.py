"""Files by the names that people write: in another Unicode form, with backslashes, with spaces around them.

Knows nothing about what is in them.
"""

import os
from collections.abc import Iterable
from unicodedata import normalize


def existing(path: str) -> str | None:
    """The path of what is there under a name, perhaps in another spelling; None where nothing is.

    Looked for, in this order: the name as it is; without spaces around its parts; with "/" for its backslashes, as
    Windows writes them; and each of these in any Unicode form (é as one sign or as two).
    """
    if os.path.lexists(path):
        return path
    return next(filter(None, map(_in_any_form, _spellings(path))), None)


def all_existing(paths: Iterable[str]) -> dict[str, str | None]:
    """`existing` of many paths; every folder is listed once, and no file is looked at that is there as written."""
    listed: dict[str, set[str]] = {}
    found: dict[str, str | None] = {}
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listed:
            listed[folder] = set(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else set()
        found[path] = path if name in listed[folder] else existing(path)
    return found


def _spellings(path: str) -> list[str]:
    """The path as it is and as it may be meant."""
    stripped = "/".join(part.strip() for part in path.split("/"))
    return list(dict.fromkeys((path, stripped, stripped.replace("\\", "/"))))


def _in_any_form(path: str) -> str | None:
    """The path with every part as it is on the disk, where parts differ in their Unicode form only."""
    if os.path.lexists(path):
        return path
    folder, name = os.path.split(path)
    if not name:
        return None
    parent = _in_any_form(folder) if folder else ""
    if parent is None or not os.path.isdir(parent or "."):
        return None
    if os.path.lexists(os.path.join(parent, name)):
        return os.path.join(parent, name)
    wanted = normalize("NFC", name)
    same = [own for own in os.listdir(parent or ".") if not own.isascii() and normalize("NFC", own) == wanted]
    return os.path.join(parent, min(same)) if same else None
