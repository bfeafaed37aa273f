"""The built-in data: coloured shapes with relations, questions, translations and sounds.

Knows nothing about captioners.
"""

from ..base.lazy import handed_on

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "scenes": "Scenes",
        "tasks": "load_scenes",
    },
)
