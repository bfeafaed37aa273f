"""What a finished caption rests on: recorded, measured word by word, and laid over the photo or into a picture.

A caption is looked into after any search, by one pass over it. Knows captioners; knows nothing about searches, pages
and commands.
"""

from ..base.lazy import handed_on

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "attribution": "Attribution AttributionError METHODS PART_NAMES",
        "looking": "Look generated_ids look",
        "measuring": "attribute",
        "overlays": "overlay veil",
        "photos": "enlarged reduced",
        "picture_files": "holds_picture save_picture",
        "pictures": "check_picture_name picture",
        "words": "Word",
    },
)
