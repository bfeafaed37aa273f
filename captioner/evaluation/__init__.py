"""Captions of a split, and what they are worth.

Knows nothing about training or pages.
"""

from ..base.lazy import handed_on

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "ablation": "ablate",
        "borrowed_metrics": "BorrowedMetrics",
        "evaluation": "Evaluation EvaluationOptions evaluate",
        "record_scores": "exact_match score_names score_records",
        "suspicions": "remarks",
        "weights": "check_weights",
        "scoring": "score_files",
    },
)
