"""What every room may use: settings, files and directories, words, progress, processes.

Knows nothing of captions, images or models.
"""

from ..base.lazy import handed_on

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "configs": "load_settings",
        "directories": "OccupiedError check_replaceable claim made_here recover remove unfinished_place whole",
        "failures": "FailureError",
        "files": "SUFFIXES WriteError explaining replacing write_text",
        "guard": "check_writable starts_with",
        "paths": "all_existing existing",
        "processes": "DisagreementError Processes SCORING leave stopping",
        "screen": "console errors is_first_process progress say show watching",
        "search_rules": "RULES contradiction idle",
        "settings": (
            "DataSettings GenerationSettings ModelSettings NEAR_DUPLICATE SelfCriticalSettings Settings "
            "SettingsError TrainingSettings"
        ),
        "texts": "TextError decoded json_lines lines_of parse_json read_text",
        "wording": "one_line some",
    },
)
