"""CIDEr-D as a module for `evaluate`: `evaluate.load(captioner.metrics.path("cider_d"))`."""

from captioner.metrics import evaluate_base


class CiderD(evaluate_base.CaptionMetric):
    """CIDEr-D of captions, from 0 to 10; it needs more than one image."""

    metric = "cider_d"
    about = __doc__
    paper = "https://arxiv.org/abs/1411.5726"
