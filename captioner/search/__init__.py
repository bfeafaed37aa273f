"""From a memory to token ids: greedy, samples, beams, forced words, ensembles.

Knows nothing about images and files, and of text only the words that a caption must or may not say.
"""

from ..base.lazy import handed_on

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "beams": "Found",
        "from_settings": "search_options",
        "loop": "search",
        "options": "SearchError SearchOptions",
    },
)
