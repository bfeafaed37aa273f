"""Whether a module or tensor is just what its class says, for code that reads parameters where others call a layer.

An adapter, a quantised, wrapped, parametrized or hooked layer is not. Knows no layer by name.
"""

import torch
from torch import Tensor, nn


def is_unmodified(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is of exactly this class, with no hook on it and none of its methods replaced."""
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    if type(module) is not kind or any(hooks):
        return False
    return not any(callable(getattr(kind, name, None)) for name in vars(module))


def is_plain(x: Tensor) -> bool:
    """Whether it is a matrix of fp32 in this computer's memory: not sharded, not quantised, not on a GPU."""
    return type(x) in (Tensor, nn.Parameter) and x.device.type == "cpu" and x.dtype == torch.float32
