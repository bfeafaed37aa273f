"""An image captioner that looks and reads.

The public names; each loads on first use, so that `import captioner` pulls in neither torch nor timm.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_ROOMS = {
    "Captioner": "model",
    "CaptionerConfig": "model",
    "CaptionerProcessor": "model",
    "Memory": "model",
    "caption": "bulk",
    "from_parts": "adopt",
    "load": "adopt",
}

__all__ = [*_ROOMS, "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name from its room the first time it is asked for."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'captioner' has no attribute {name!r}; it has {', '.join(_ROOMS)}")
    return getattr(import_module(f".{_ROOMS[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
