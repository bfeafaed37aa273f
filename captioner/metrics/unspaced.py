"""Captions in scripts that put no spaces between words, which scores then take for single words.

Knows nothing about any metric.
"""

import re
import warnings
from collections.abc import Sequence

EAST_ASIAN = "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
SOUTH_EAST_ASIAN = "\u0e00-\u109f\u1780-\u17ff"
UNDIVIDED = re.compile(f"[{EAST_ASIAN}]{{7}}|[{SOUTH_EAST_ASIAN}]{{13}}")  # longer than words are, but for a few


def warn_of_unspaced(references: Sequence[Sequence[str]]) -> None:
    """Warn where most captions are not divided into words."""
    captions = [caption for own in references for caption in own]
    found = [caption for caption in captions if not caption.isascii() and UNDIVIDED.search(caption)]
    if 2 * len(found) > len(captions):
        warnings.warn(
            f"scores are of words, which end at spaces, but {len(found)} of {len(captions)} references have no spaces "
            f"between words, such as {found[0][:30]!r}; divide captions and references into words first",
            stacklevel=4,
        )
