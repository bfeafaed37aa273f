"""Which keys of a configuration mean something: transformers keeps what it does not know, and nothing reads it.

Knows nothing about what the keys do.
"""

from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from transformers import PreTrainedConfig

# What transformers itself reads or writes in any configuration.
EVERYWHERE = frozenset(
    ("model_type", "dtype", "torch_dtype", "attn_implementation", "name_or_path", "num_labels", "output_attentions")
)
BESIDE = ("embedding_std",)  # what `ContextEncoder` reads beside it


def check_known(where: str, kind: type[PreTrainedConfig], keys: Iterable[str]) -> None:
    """Make sure that a person's keys are options of a configuration.

    Args:
        where: the keys stand, for the message.
        kind: of configuration.

    Raises:
        ValueError: a key that is none; the nearest is named.
    """
    known = {*(field.name for field in fields(kind)), *kind.attribute_map, *EVERYWHERE, *BESIDE}
    for key in keys:
        if key not in known and not str(key).startswith("_"):
            own = sorted(name for name in known if name in vars(kind) or name in kind.attribute_map)
            near = get_close_matches(str(key), own, n=1, cutoff=0.5)
            meant = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(own)}"
            raise ValueError(f"`{where}` has {key!r}, which is no option of it; {meant}")


def is_saved(keys: dict[str, Any]) -> bool:
    """Whether transformers wrote these keys, with whatever its version adds, and not a person."""
    return "model_type" in keys
