"""From names and foreign checkpoints to captioners; from one conditioning mode to another.

Knows nothing about data, searches or training.
"""

from ..base.lazy import handed_on

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "loading": "AdoptError DEFAULT_MODEL assemble load shipped_names",
        "parts": "from_parts load_timm_weights",
        "remote_code": "code_beside",
        "switching": "add_modality switch_conditioning",
    },
)
