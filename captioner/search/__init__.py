"""From a memory to token ids: greedy, samples, beams, forced words, ensembles.

Knows nothing about text, images or files.
"""

from ..base.lazy import handed_on

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "loop": "SearchError SearchOptions search",
    },
)
