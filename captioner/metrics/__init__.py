"""BLEU, ROUGE-L and CIDEr-D of captions, as the COCO evaluation counts them, and VQA's accuracy of answers.

`score` and `score_per_image` take raw captions; `CiderD` keeps its references for rewards. These are plain
functions: `path` leads to the same metrics as modules for the `evaluate` library, which only those import. A
`signature` says what a score was measured on.

Knows nothing about models, and loads neither torch nor transformers.
"""

from ..base.lazy import handed_on

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "cider_d": "CiderD DocumentFrequencies",
        "scores": "ANSWER_METRICS METRICS path score score_per_image",
        "signatures": "signature training_signature",
        "tokenizer": "tokenize",
    },
)
