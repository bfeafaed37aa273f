"""Scenes: deterministic, true to their captions, and unsolvable by either modality alone."""

from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner.base import load_settings
from captioner.scenes import Scenes, load_scenes
from captioner.scenes.scenes import HELD_OUT, SCENE_LEVELS, SCENE_VOCABULARY, make_scene
from captioner.scenes.things import COLOURS, SHAPES, SIDE

scenes = st.builds(
    make_scene,
    st.just(0),
    st.sampled_from(["train", "validation", "test"]),
    st.sampled_from([1, 2, 3]),
    st.integers(0, 10_000),
)


@given(scenes)
def test_a_scene_is_a_function_of_its_seed(scene):
    again = make_scene(scene.seed[0], ["train", "validation", "test"][scene.seed[1]], *scene.seed[2:])
    assert again == scene
    assert np.array_equal(again.picture(), scene.picture())


@given(scenes)
def test_captions_and_contexts_use_only_the_vocabulary(scene):
    words = set(" ".join([*scene.captions, scene.context]).split())
    assert words <= set(SCENE_VOCABULARY)


@given(scenes)
def test_every_caption_is_true_of_the_scene(scene):
    subject = scene.things[0]
    for caption in scene.captions:
        assert caption.startswith(f"the {subject.words} {scene.name} is ")
        if len(scene.things) == 1:
            assert ("left" in caption) == (subject.x < SIDE / 2)
            assert ("upper" in caption) == (subject.y < SIDE / 2)
        else:
            other = scene.things[1]
            assert caption.endswith(f" the {other.words}")
            offsets = {
                "left": other.x - subject.x,
                "right": subject.x - other.x,
                "above": other.y - subject.y,
                "below": subject.y - other.y,
            }
            said = next(word for word in caption.split() if word in offsets)
            assert offsets[said] > 0
    assert scene.captions


@given(scenes)
def test_the_context_names_exactly_one_object_that_is_there(scene):
    visible = {(thing.colour, thing.shape) for thing in scene.things}
    named = [name for name, *pair in scene.facts if tuple(pair) in visible]
    low, high = SCENE_LEVELS[scene.level].names
    assert named == [scene.name]
    assert low <= len(scene.facts) <= high


@given(scenes)
def test_no_two_things_that_are_shown_or_spoken_of_share_a_shape(scene):
    pairs = {(t.colour, t.shape) for t in scene.things} | {(colour, shape) for _, colour, shape in scene.facts}
    assert len({shape for _, shape in pairs}) == len(pairs) == len(scene.things) + len(scene.facts) - 1


def test_the_reading_exercise_has_no_picture_and_says_every_fact_in_any_order():
    for index in range(50):
        scene = make_scene(0, "train", 0, index)
        facts = {f"the {colour} {shape} {name}" for name, colour, shape in scene.facts}
        assert scene.picture() is None
        assert 1 <= len(facts) <= 4
        assert all(set(caption.split(" . ")) == facts for caption in scene.captions)
        assert len(set(scene.captions)) == len(scene.captions) == factorial(len(facts))


@given(scenes)
def test_the_picture_shows_each_object_in_its_colour(scene):
    picture = scene.picture()
    assert picture.shape == (SIDE, SIDE, 3)
    assert picture.dtype == np.uint8
    for thing in scene.things:
        rows, columns = np.mgrid[0:SIDE, 0:SIDE] + 0.5
        outside = SHAPES[thing.shape](columns - thing.x, rows - thing.y, thing.radius)
        pixel = picture[np.unravel_index(outside.argmin(), outside.shape)].astype(float)
        nearest = min(COLOURS, key=lambda name: np.abs(np.array(COLOURS[name]) - pixel).sum())
        assert nearest == thing.colour


def test_held_out_pairs_occur_in_the_test_split_only():
    def pairs(split):
        made = [make_scene(0, split, 3, i) for i in range(400)]
        return {(t.colour, t.shape) for scene in made for t in scene.things} | {
            tuple(pair) for scene in made for _, *pair in scene.facts
        }

    assert not pairs("train") & set(HELD_OUT)
    assert not pairs("validation") & set(HELD_OUT)
    assert set(HELD_OUT) <= pairs("test")


def test_neither_modality_alone_decides_the_caption():
    """The same picture is called by many names, and the same context is said of many pictures."""
    made = [make_scene(0, "test", 3, i) for i in range(300)]
    assert len({scene.name for scene in made}) > 20
    assert len({scene.captions[0].split(" is ")[1] for scene in made}) > 100


def test_levels_take_turns_and_settings_choose_them():
    data = load_settings(None, ["data.source=scenes", "data.levels=[1,3]", "data.scenes=10"]).data
    train = load_scenes(data, "train")
    assert [train[i]["level"] for i in range(4)] == [1, 3, 1, 3]
    assert len(train) == 10
    assert set(train[0]) == {"image", "captions", "context", "id", "level"}
    with pytest.raises(IndexError):
        train[10]


def test_an_unknown_level_or_split_names_those_there_are():
    with pytest.raises(ValueError, match=r"levels \[0, 1, 2, 3\], but 'train' with \[4\]"):
        Scenes("train", [4], 10)
    with pytest.raises(ValueError, match="splits .*'validation'.* but 'dev'"):
        Scenes("dev", [1], 10)
