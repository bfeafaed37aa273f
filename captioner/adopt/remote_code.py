"""Checkpoints that bring their own code, for `trust_remote_code=True` where this package is not installed.

Which files go along is transformers' affair: it follows relative imports from those of the classes named here. Knows
nothing about what is in them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from ..model import Captioner, CaptionerConfig, CaptionerProcessor

AUTO_CLASSES = {CaptionerConfig: "AutoConfig", Captioner: "AutoModel", CaptionerProcessor: "AutoProcessor"}


@contextmanager
def code_beside(model: Captioner) -> Iterator[None]:
    """While this lasts, saving and pushing the captioner and its processor writes their code beside the weights.

    It is asked for each time, because code in a repository is code that others must read before they trust it, and
    stays as it was when the package moves on; where the package is installed, an ordinary checkpoint loads as well.

        with code_beside(model):
            model.push_to_hub("me/captioner")
            processor.push_to_hub("me/captioner")
    """
    before = vars(model.config).get("auto_map")
    for kind, auto in AUTO_CLASSES.items():
        kind.register_for_auto_class(auto)
    try:
        yield
    finally:
        for kind in AUTO_CLASSES:
            kind._auto_class = None
        model.config.auto_map = before
        if before is None:
            del model.config.auto_map
