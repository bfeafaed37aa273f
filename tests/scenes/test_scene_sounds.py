"""Scenes with sounds: the scenes as they are, and sounds that tell their verbs."""

import numpy as np

from captioner.scenes import Scenes
from captioner.scenes.sounds import BANDS, SOUNDS, SceneSounds


def test_scenes_with_sounds_are_the_scenes_and_end_with_what_the_sound_tells():
    plain, heard = Scenes("test", [1, 2], 40), SceneSounds("test", [1, 2], 40)
    for i in range(40):
        before, after = plain[i], heard[i]
        assert (before["image"] == after["image"]).all()
        assert before["context"] == after["context"]
        ends = {said.removeprefix(caption) for caption, said in zip(before["captions"], after["captions"], strict=True)}
        assert len(ends) == 1
        assert ends <= {f" and {verb}" for verb in SOUNDS}
        assert after["sound"].shape[1] == BANDS


def test_a_sound_tells_its_verb_alone():
    """The nearest mean spectrum, with the courses of the two halves, tells verbs of unseen scenes apart."""

    def look(sample):
        halves = np.array_split(sample["sound"], 2)
        changes = np.abs(np.diff(sample["sound"], axis=0)).mean(keepdims=True)[0]
        return np.concatenate([*(half.mean(axis=0) for half in halves), 3 * changes, [sample["sound"].std()]])

    train, test = ([SceneSounds(split, [1], 200)[i] for i in range(200)] for split in ("train", "test"))
    known, asked = ([(look(own), own["captions"][0].split()[-1]) for own in split] for split in (train, test))
    means = {verb: np.mean([found for found, own in known if own == verb], axis=0) for verb in SOUNDS}
    right = [min(means, key=lambda own: np.linalg.norm(found - means[own])) == verb for found, verb in asked]
    assert np.mean(right) > 0.9
