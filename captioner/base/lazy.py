"""How a room hands on its names: each from its file, and only when it is asked for.

Knows nothing about any room.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def handed_on(room: str, files: dict[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a room (PEP 562), so that importing it loads none of its files.

    Args:
        room: the name of the package.
        files: file → the names that other rooms may use, with spaces between. No name may be that of a file,
            which would hide it.
    """
    places = {name: file for file, names in files.items() for name in names.split()}

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {room!r} has no attribute {name!r}; it has {', '.join(sorted(places))}")
        return getattr(import_module(f".{places[name]}", room), name)

    return get, lambda: sorted(places), sorted(places)
