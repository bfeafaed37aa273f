"""From names and foreign checkpoints to captioners, and from captioners to those of one modality more.

What has a name (ours, shipped, of another architecture, a language model, an encoder) becomes a captioner and its
processor here, as does what a run's settings describe. Knows nothing about data, searches or training.
"""

from ..base.lazy import handed_on

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        ".model": "switch_conditioning",  # of the room below, where a captioner has it as a method too
        "architecture": "ForeignError",
        "language_models": "FamilyError",
        "loading": "DEFAULT_MODEL assemble load",
        "locating": "AdoptError shipped_folder shipped_names",
        "newcomers": "add_modality",
        "parts": "from_parts",
        "pretrained": "PartsError load_timm_weights",
        "remote_code": "code_beside",
        "unknown_words": "check_words find_unknown",
        "vocabulary": "VocabularyError train_tokenizer",
    },
)
