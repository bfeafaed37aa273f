"""What a finished caption rests on: attention, attribution, overlays and pictures.

Knows nothing about pages and commands.
"""

from ..base.lazy import handed_on

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "attribution": "Attribution AttributionError METHODS",
        "looking": "Look look say",
        "overlays": "enlarged overlay reduced veil",
        "pictures": "check_format picture",
    },
)
