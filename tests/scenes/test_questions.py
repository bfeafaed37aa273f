"""Questions: scenes whose answers only the picture gives, VQA's files, VQA's accuracy."""

import json
from collections import Counter, defaultdict
from itertools import combinations

import numpy as np
import pytest
import runs
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from captioner.base import DataSettings, load_settings
from captioner.cli.main import app
from captioner.data import DataError, load_split
from captioner.evaluation import score_records
from captioner.metrics import score, score_per_image
from captioner.metrics.vqa_accuracy import normalise
from captioner.scenes.questions import (
    QUESTION_KINDS,
    QUESTION_LEVELS,
    QUESTION_VOCABULARY,
    SceneQuestions,
    make_question,
)
from captioner.training import train

CHANCE = {"colour": 1 / 6, "count": 1 / 4, "relation": 1 / 2, "yes_no": 1 / 2}
questions = st.builds(
    make_question,
    st.just(0),
    st.sampled_from(["train", "validation", "test"]),
    st.sampled_from(list(QUESTION_LEVELS)),
    st.integers(0, 10_000),
)


def true_answer(question):
    """The answer by looking at the things themselves."""
    words, things = question.context.split(), question.things
    if question.kind == "colour":
        (thing,) = (thing for thing in things if thing.shape == words[-1])
        return thing.colour
    if question.kind == "count":
        what = words[2]
        return str(sum(what == thing.colour or what.startswith(thing.shape) for thing in things))
    if question.kind == "yes_no":
        there = {(thing.colour, thing.shape) for thing in things}
        return "yes" if tuple(words[-2:]) in there else "no"
    (first,), (second,) = ([t for t in things if t.shape == word] for word in (words[2], words[-1]))
    sideways = "left" in words
    before = int(first.x < second.x if sideways else first.y < second.y)
    return (("right", "left") if sideways else ("below", "above"))[before]


@given(questions)
def test_every_answer_is_true_of_the_picture(question):
    assert question.captions == [true_answer(question)]


@given(questions)
def test_a_question_is_a_function_of_its_seed_in_words_of_the_vocabulary(question):
    again = make_question(question.seed[0], ["train", "validation", "test"][question.seed[1]], *question.seed[2:])
    assert again == question
    assert np.array_equal(again.picture(), question.picture())
    assert {*question.context.split(), *question.captions} <= set(QUESTION_VOCABULARY)


@given(questions)
def test_things_leave_gaps_and_level_says_how_many_are_there_at_least(question):
    for a, b in combinations(question.things, 2):
        assert max(abs(a.x - b.x), abs(a.y - b.y)) > a.radius + b.radius
    assert len(question.things) >= QUESTION_LEVELS[question.level]


@given(questions)
def test_what_is_denied_differs_in_one_word_from_something_that_is_there(question):
    if question.captions == ["no"]:
        asked = question.context.split()[-2:]
        assert any((thing.colour == asked[0]) != (thing.shape == asked[1]) for thing in question.things)


@pytest.mark.parametrize("kind", QUESTION_KINDS)
def test_the_question_alone_gives_chance_level(kind):
    """The best guess from a question, learnt from thousands of answers, is right as often as chance has it."""

    def asked(split, count):
        made = (make_question(0, split, 1, index) for index in range(count))
        return [(question.context, question.captions[0]) for question in made if question.kind == kind]

    seen = defaultdict(Counter)
    for text, answer in asked("train", 6000):
        seen[text][answer] += 1
    unseen = asked("test", 6000)
    right = sum(text in seen and seen[text].most_common(1)[0][0] == answer for text, answer in unseen)
    assert right / len(unseen) == pytest.approx(CHANCE[kind], abs=0.05)


def test_kinds_and_levels_take_turns_and_settings_ask_for_them():
    data = DataSettings(source="scenes", task="questions", levels=[1, 3], scenes=16)
    split = load_split(data, "train")
    assert [(split[i]["level"], split[i]["kind"]) for i in range(4)] == [
        (1, "colour"),
        (3, "colour"),
        (1, "count"),
        (3, "count"),
    ]
    assert all(split[i]["kind"] == split.scene(i).kind for i in range(16))
    assert len(load_split(data, "validation")) == 500
    with pytest.raises(ValueError, match=r"levels \[1, 2, 3\], but 'train' with \[0\]"):
        SceneQuestions("train", [0], 10)


# VQA's accuracy


@pytest.mark.parametrize(("people", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_an_answer_that_some_of_ten_people_gave_gets_the_official_marks(people, accuracy):
    given_answers = ["red"] * people + [f"no {i} idea" for i in range(10 - people)]
    assert score(["red"], [given_answers], ["vqa_accuracy"]) == {"vqa_accuracy": pytest.approx(accuracy)}


@given(st.lists(st.sampled_from(["red", "blue", "green"]), min_size=4, max_size=12), st.sampled_from(["red", "blue"]))
def test_accuracy_is_the_mean_over_all_ways_to_leave_one_person_out(people, answer):
    marks = [min(1, (people[:i] + people[i + 1 :]).count(answer) / 3) for i in range(len(people))]
    assert score_per_image([answer], [people], ["vqa_accuracy"])["vqa_accuracy"] == [
        pytest.approx(sum(marks) / len(marks))
    ]


def test_with_three_answers_or_fewer_one_match_is_enough():
    scores = score_per_image(["red", "red", "red"], [["red"], ["blue", "red", "green"], ["blue"]], ["vqa_accuracy"])
    assert scores == {"vqa_accuracy": [1, 1, 0]}


@pytest.mark.parametrize(
    ("written", "compared"),
    [
        ("The Dog", "dog"),
        ("a cat and an apple", "cat and apple"),
        ("two", "2"),
        ("None", "0"),
        ("Yes.", "yes"),
        ("3.5 miles", "3.5 miles"),
        ("100,978", "100978"),
        ("red, white", "red white"),
        ("t-shirt", "t shirt"),
        ("dont know", "don't know"),
        ("it’s", "it's"),
        ("10:30 a.m.", "10:30 am"),
        ("man's hat", "man's hat"),
        ("its well", "its well"),
        ("  on\tthe\nleft ", "on left"),
    ],
)
def test_answers_are_compared_as_the_evaluation_describes(written, compared):
    assert normalise(written) == compared
    assert normalise(compared) == compared
    assert score([written], [[compared] * 10], ["vqa_accuracy"]) == {"vqa_accuracy": 1}


def test_the_task_chooses_the_scores():
    records = [{"caption": "2", "captions": ["two"] * 10}, {"caption": "Yes", "captions": ["yes"]}]
    assert score_records(records, "questions") == {"vqa_accuracy": 1, "exact_match": 0.5}
    assert "cider_d" in score_records(records, "translation")


# VQA's files


@pytest.fixture
def vqa(tmp_path):
    """Two questions about one image, with ten answers each; returns the settings."""
    (tmp_path / "val2014").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "val2014/COCO_val2014_000000000042.jpg")
    asked = [{"image_id": 42, "question_id": n, "question": text} for n, text in ((7, "what is it"), (8, "is it red"))]
    said = [
        {"image_id": 42, "question_id": n, "answers": [{"answer": text, "answer_id": i} for i in range(1, 11)]}
        for n, text in ((8, "no"), (7, "a dog"))
    ]
    (tmp_path / "questions.json").write_text(json.dumps({"data_subtype": "val2014", "questions": asked}))
    (tmp_path / "annotations.json").write_text(json.dumps({"annotations": said}))
    return DataSettings(
        source="vqa",
        task="questions",
        path=str(tmp_path),
        questions={"validation": "questions.json"},
        annotations={"validation": "annotations.json"},
    )


def test_vqas_files_become_a_sample_per_question_with_all_answers(vqa):
    samples = load_split(vqa, "validation")
    assert [samples[i]["id"] for i in range(len(samples))] == ["7", "8"]
    assert samples[0]["context"] == "what is it"
    assert samples[0]["captions"] == ["a dog"] * 10
    assert samples[1]["captions"] == ["no"] * 10
    assert {samples[i]["image"].rpartition("/")[2] for i in range(2)} == {"COCO_val2014_000000000042.jpg"}


def test_vqas_files_that_do_not_fit_together_are_explained(vqa, tmp_path):
    (tmp_path / "val2014/COCO_val2014_000000000042.jpg").unlink()
    with pytest.raises(DataError, match=r"has no image for 1 numbers in `data.questions`: 42; set `data.path`"):
        load_split(vqa, "validation")
    (tmp_path / "annotations.json").write_text('{"annotations": []}')
    with pytest.raises(DataError, match=r"has no answers to 2 of 2 questions in .*questions.json: 7, 8; set"):
        load_split(vqa, "validation")
    (tmp_path / "annotations.json").write_text('{"images": []}')
    with pytest.raises(DataError, match="is not VQA's annotations"):
        load_split(vqa, "validation")
    with pytest.raises(DataError, match="`data.questions` has no split 'test' but validation"):
        load_split(vqa, "test")


def test_questions_come_from_the_columns_of_a_table_too(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    line = {"image": "a.png", "question": "what is it", "answers": ["a dog"] * 10}
    (tmp_path / "t.jsonl").write_text(json.dumps(line) + "\n")
    columns = {"context_column": "question", "caption_column": "answers"}
    sample = load_split(DataSettings(source="table", path=str(tmp_path / "t.jsonl"), **columns), "train")[0]
    assert (sample["context"], sample["captions"]) == ("what is it", ["a dog"] * 10)


# Training and evaluation


def test_training_and_evaluation_report_vqas_accuracy(tmp_path):
    config = runs.ROOT / "configs/vqa.yaml"
    settings = load_settings(config, [*runs.TINY, f"training.output_dir={tmp_path}"])
    best = train(settings)
    assert set(best) == {"step", "vqa_accuracy", "exact_match"}
    validations = [line for line in runs.lines(tmp_path) if "vqa_accuracy" in line]
    assert all(line["signature"].startswith("tok:vqa|refs:1|") for line in validations)
    command = ["evaluate", "--model", str(tmp_path / "best"), "--config", str(config), "data.limit=8", "--ablate"]
    shown = CliRunner().invoke(app, [*command, "--num-workers", "0"])
    assert shown.exit_code == 0, shown.output
    for word in ("vqa_accuracy", "image blanked", "context shuffled"):
        assert word in shown.output
