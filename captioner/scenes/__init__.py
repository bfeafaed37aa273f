"""The built-in data: coloured shapes with relations, questions, translations and sounds, made and not read.

Every scene is a function of (seed, split, level, index). `Scenes` and its kin are splits in the data schema;
`load_scenes` makes the one that a run asks for.

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
