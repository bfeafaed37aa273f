"""Whether a captioner's weights are numbers at all, asked before they are scored or saved."""

from torch import nn

from ..base import FailureError, some


class WeightsError(FailureError):
    """Weights that hold NaN or infinity; the message names some."""


def check_weights(model: nn.Module, remedy: str = "train it again, from a checkpoint before that") -> None:
    """Make sure that every weight of a captioner is a finite number.

    Args:
        remedy: the end of the message.

    Raises:
        WeightsError: one is not.
    """
    weights = model.state_dict()
    lost = [name for name, weight in weights.items() if not weight.isfinite().all()]
    if lost:
        raise WeightsError(
            f"{len(lost)} of {len(weights)} tensors of the captioner hold NaN or infinity ({some(lost, 3)}); {remedy}"
        )
