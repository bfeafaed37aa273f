"""What the metrics' modules for the `evaluate` library share; the only place here that imports it."""

import evaluate
from datasets import Features, Sequence, Value

from captioner.metrics import score

_INPUTS = """
Args:
    predictions: a caption (str) for each image.
    references: a list of reference captions (list of str) for each image.
"""


class CaptionMetric(evaluate.Metric):
    """One metric of captions against several references; a subclass says which."""

    metric: str
    about: str
    paper: str

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": Value("string"), "references": Sequence(Value("string"))}
        return evaluate.MetricInfo(
            description=self.about,
            citation=self.paper,
            inputs_description=_INPUTS,
            features=Features(features),
            reference_urls=[self.paper],
        )

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return score(predictions, references, metrics=[self.metric])
