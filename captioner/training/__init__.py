"""The training loop and what it needs: optimiser, objectives, checkpoints, validation, log.

`train` is the loop, in `loop.py`; every step of it is a call of one file here. A run's directory holds its settings,
`metrics.jsonl`, `best/`, `last/` and the checkpoints that it goes on from.

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
