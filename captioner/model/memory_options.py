"""What `CaptionerConfig.memory` may say of a long memory, and whether it goes together with the conditioning mode.

Knows names and numbers; the parts themselves are in `reduction.py` and `attention_kinds.py`. Imports no torch.
"""

from collections.abc import Iterable
from typing import Any

ATTENTIONS: dict[str, dict[str, int]] = {  # kind → its options and their defaults
    "softmax": {},
    "topk": {"block_size": 32, "blocks": 8},
    "linear": {},
}
RESAMPLER = {"latents": 64, "layers": 2, "heads": 8}
KEYS = ("pool", "resampler", "attention", *ATTENTIONS["topk"])


def attention_options(options: dict[str, Any]) -> dict[str, Any]:
    """The attention of one modality: its `kind`, and the options of that kind with their defaults."""
    kind = options.get("attention", "softmax")
    return {"kind": kind} | {name: options.get(name, default) for name, default in ATTENTIONS[kind].items()}


def check_memory(memory: dict[str, Any], modalities: Iterable[str], mode: str, one_softmax: bool) -> None:
    """Refuse what cannot be built.

    Args:
        memory: modality → its options.
        modalities: those that the captioner has.
        mode: the name of the conditioning mode, for messages.
        one_softmax: whether that mode attends to all modalities at once.

    Raises:
        ValueError: an unknown modality, option or kind, a number below its least, or kinds that one softmax over all
            modalities cannot have.
    """
    modalities = list(modalities)
    for name, options in memory.items():
        if name not in modalities:
            raise ValueError(f"`memory` may be about {', '.join(modalities)}, but is about {name!r}")
        _check_options(f"memory.{name}", options)
        if "pool" in options and name != "image":
            raise ValueError(f"`memory.{name}.pool` averages neighbouring patches of an image; take `resampler` here")
    kinds = {name: attention_options(memory.get(name, {})) for name in modalities}
    if one_softmax and len({tuple(kind.items()) for kind in kinds.values()}) > 1:
        raise ValueError(
            f"{mode} attends to all modalities at once, so `memory` must give each the same attention, but it has "
            f"{kinds}; make them equal, or take another fusion of conditioning='separate'"
        )


def _check_options(where: str, options: Any) -> None:
    _check_keys(where, options, KEYS)
    kind = options.get("attention", "softmax")
    if kind not in ATTENTIONS:
        raise ValueError(f"`{where}.attention` must be one of {', '.join(ATTENTIONS)}, but is {kind!r}")
    foreign = sorted(set(options) & set(ATTENTIONS["topk"]) - set(ATTENTIONS[kind]))
    if foreign:
        raise ValueError(f"`{where}` has {', '.join(foreign)}, which attention {kind!r} does not take; take 'topk'")
    _check_numbers(where, {name: options[name] for name in (*ATTENTIONS[kind], "pool") if name in options})
    if "resampler" in options:
        _check_keys(f"{where}.resampler", options["resampler"], tuple(RESAMPLER))
        _check_numbers(f"{where}.resampler", options["resampler"])


def _check_keys(where: str, options: Any, keys: tuple[str, ...]) -> None:
    if not isinstance(options, dict):
        raise ValueError(f"`{where}` must be a dict with some of {', '.join(keys)}, but is {options!r}")
    unknown = sorted(set(options) - set(keys))
    if unknown:
        raise ValueError(f"`{where}` may have {', '.join(keys)}, but has {', '.join(unknown)}")


def _check_numbers(where: str, numbers: dict[str, Any]) -> None:
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"`{where}.{name}` must be a whole number from 1 on, but is {value!r}")
