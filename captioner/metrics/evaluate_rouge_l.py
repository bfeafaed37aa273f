"""ROUGE-L as a module for `evaluate`: `evaluate.load(captioner.metrics.path("rouge_l"))`."""

from captioner.metrics import evaluate_base


class RougeL(evaluate_base.CaptionMetric):
    """ROUGE-L of captions, as a fraction."""

    metric = "rouge_l"
    about = __doc__
    paper = "https://aclanthology.org/W04-1013"
