"""Every source to samples, samples to batches.

A split is read by `load_split` or `open_stream` into samples of one schema, images still encoded; `Collator` and its
kin make batches of them, by the names of `Captioner.forward`, in the workers of a loader; `Passes` are the batches of
a run. What is wrong with data is noted on the way as `Bad` and counted by `BadData`.

Knows nothing about what is trained, evaluated or captioned with them.
"""

from ..base.lazy import handed_on

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "apart": "note_shared",
        "cells": "captions_in",
        "collator": "Collator EvaluationCollator SampleCollator",
        "columns": "USUAL_COLUMNS",
        "dataset": "Batch CaptionDataset Sample Split",
        "faults": "BAD_DATA_FILE Bad BadData DataError TRAINING UNREADABLE VALIDATION sift",
        "metadata": "FIELDS read_metadata",
        "passes": "MapPasses Passes StreamPasses steps",
        "repositories": "is_saved_dataset load_repository",
        "rows": "Cells embedded_rows holds_paths",
        "sources": "load_split",
        "streaming": "Stream open_stream",
        "tables": "TABLE_READERS",
    },
)
