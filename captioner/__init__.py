"""An image captioner that looks and reads.

The public names; each loads on first use, so that `import captioner` pulls in neither torch nor timm.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Captioner": "model",
    "CaptionerConfig": "configuration",
    "CaptionerProcessor": "processor",
    "Memory": "memory",
    "caption": "captioning",
    "from_parts": "parts",
    "load": "adopt",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name from its module the first time it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'captioner' has no attribute {name!r}; it has {', '.join(_HOMES)}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
