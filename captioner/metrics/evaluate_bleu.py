"""BLEU as a module for `evaluate`: `evaluate.load(captioner.metrics.path("bleu"))`."""

from captioner.metrics import evaluate_base


class Bleu(evaluate_base.CaptionMetric):
    """BLEU-1 to BLEU-4 of captions, as fractions."""

    metric = "bleu"
    about = __doc__
    paper = "https://aclanthology.org/P02-1040"
