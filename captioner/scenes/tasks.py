"""Which generated scenes a run asks for: captions, questions and answers, translations, or captions with sounds.

Knows nothing about how any of them are made.
"""

from ..base import DataSettings
from .questions import SceneQuestions
from .scenes import Scenes
from .sounds import SceneSounds
from .translations import SceneTranslations

SCENE_TASKS = {"captions": Scenes, "questions": SceneQuestions, "translation": SceneTranslations, "sounds": SceneSounds}
EVALUATION_SCENES = 250  # per level, in validation and in test


def load_scenes(settings: DataSettings, split: str) -> Scenes:
    """The scenes that the settings ask for: `task`, `levels`, and `scenes` of them for training."""
    count = settings.scenes if split == "train" else EVALUATION_SCENES * len(settings.levels)
    return SCENE_TASKS[settings.task](split, settings.levels, min(count, settings.limit or count))
