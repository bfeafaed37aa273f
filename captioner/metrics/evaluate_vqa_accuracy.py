"""VQA's accuracy as a module for `evaluate`: `evaluate.load(captioner.metrics.path("vqa_accuracy"))`."""

from captioner.metrics import evaluate_base


class VqaAccuracy(evaluate_base.CaptionMetric):
    """The soft accuracy of answers to visual questions that several people answered, as a fraction."""

    metric = "vqa_accuracy"
    about = __doc__
    paper = "https://arxiv.org/abs/1505.00468"
