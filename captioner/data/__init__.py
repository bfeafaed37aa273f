"""Every source to samples, samples to batches.

Knows nothing about what is trained, evaluated or captioned with them.
"""

from ..base.lazy import handed_on

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "collator": "CaptionDataset Collator load_split",
        "faults": "BAD_DATA_FILE Bad BadData TRAINING UNREADABLE VALIDATION sift",
        "metadata": "FIELDS read_metadata",
        "passes": "MapPasses Passes StreamPasses steps",
        "sources": "Cells DataError TABLES USUAL_COLUMNS embedded_rows holds_paths load_repository",
        "streaming": "open_stream",
    },
)
