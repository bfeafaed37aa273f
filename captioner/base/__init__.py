"""What every room may use: settings, files, words, progress, processes.

Knows nothing of captions, images or models.
"""

from ..base.lazy import handed_on

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "files": "SUFFIXES WriteError explaining recover replacing whole write_text",
        "paths": "all_existing existing",
        "processes": "Processes leave stopping",
        "screen": "console errors is_first_process progress say show watching",
        "settings": (
            "DataSettings GenerationSettings ModelSettings NEAR_DUPLICATE SelfCriticalSettings Settings "
            "SettingsError TrainingSettings load_settings"
        ),
        "texts": "TextError decoded json_lines lines_of parse_json read_text",
        "wording": "one_line some",
    },
)
