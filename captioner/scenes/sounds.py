"""Scenes that can be heard: a third modality tells one word of the caption, which neither picture nor context tells.

A scene of `scenes.py` with a sound of the thing that the context names; the caption ends with what it does: "the small
red circle anna is in the upper left and hums". A sound is a tiny spectrogram, S frames of `BANDS` bands, with noise,
its pitch and loudness drawn anew; which verb it is lies in its course. A function of (seed, split, level, index).
Knows nothing about pictures.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .scenes import SCENE_LEVELS, SCENE_VOCABULARY, SPLITS, Scenes

BANDS = 12
FRAMES = (10, 16)  # least and most
NOISE = 0.15


def _tone(frames: np.ndarray, pitch: float) -> np.ndarray:
    """A line in the spectrogram: (S,) or one number of bands → (S, BANDS)."""
    return np.exp(-((np.arange(BANDS) - (frames * 0 + pitch)[:, None]) ** 2) / 2)


def _beats(frames: np.ndarray, period: int) -> np.ndarray:
    """All bands at once, every so many frames."""
    return np.repeat((frames % period == 0)[:, None], BANDS, axis=1)


# verb → (frames counted from 0, share of the way through them, a random number in 0…1) → (S, BANDS) in 0…1
SOUNDS: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "hums": lambda frames, way, draw: _tone(frames, 1 + 2 * draw),
    "whistles": lambda frames, way, draw: _tone(frames, 8 + 2 * draw),
    "rises": lambda frames, way, draw: _tone(frames, 1 + 2 * draw + 7 * way),
    "falls": lambda frames, way, draw: _tone(frames, 10 - 2 * draw - 7 * way),
    "ticks": lambda frames, way, draw: _beats(frames + int(2 * draw), 2),
    "knocks": lambda frames, way, draw: _beats(frames + int(5 * draw), 5),
}


def make_sound(rng: np.random.Generator, verb: str) -> np.ndarray:
    """The sound of a verb, (S, BANDS) float32."""
    frames = np.arange(rng.integers(FRAMES[0], FRAMES[1] + 1))
    clean = SOUNDS[verb](frames, frames / frames[-1], rng.random())
    return (rng.uniform(0.7, 1.3) * clean + rng.normal(0, NOISE, clean.shape)).astype(np.float32)


class SceneSounds(Scenes):
    """Scenes of one split as samples that also have `sound` (S, BANDS)."""

    known_levels = {level: own for level, own in SCENE_LEVELS.items() if own.objects}  # noqa: RUF012
    vocabulary = (*SCENE_VOCABULARY, "and", *SOUNDS)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        rng = np.random.default_rng((self.seed, SPLITS[self.split], sample["level"], index, 3))
        verb = list(SOUNDS)[rng.integers(len(SOUNDS))]
        captions = [f"{caption} and {verb}" for caption in sample["captions"]]
        return {**sample, "captions": captions, "sound": make_sound(rng, verb)}
