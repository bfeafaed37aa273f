"""The activations of a decoder, by their names in transformers; of one formula under two names, the faster kernel."""

from torch import nn
from transformers.activations import ACT2FN

FASTER = {"gelu_new": "gelu_pytorch_tanh"}  # eight kernels, and one


def activation(name: str) -> nn.Module:
    """The function that transformers calls `name`."""
    return ACT2FN[FASTER.get(name, name)]
