"""The training loop and what it needs: optimiser, objectives, checkpoints, validation, log.

Knows nothing about commands and pages.
"""

from ..base.lazy import handed_on

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "checkpoints": "save_captioner",
        "loop": "train",
    },
)
