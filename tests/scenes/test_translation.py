"""Translation that looks: German forms, sentences that need both picture and context, captioners that only read."""

import json
from collections import defaultdict

import numpy as np
import pytest
import runs
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from captioner import load
from captioner.base import DataSettings, load_settings
from captioner.bulk import caption
from captioner.bulk.captioning import CaptioningError
from captioner.cli.main import app
from captioner.data import load_split
from captioner.scenes.german import ADJECTIVES, NOUNS, described, pronoun
from captioner.scenes.things import SHAPES, Thing
from captioner.scenes.translations import BLURS, TRANSLATION_VOCABULARY, SceneTranslations, make_translation
from captioner.training import train

translations = st.builds(
    make_translation,
    st.just(0),
    st.sampled_from(["train", "validation", "test"]),
    st.sampled_from(list(BLURS)),
    st.integers(0, 10_000),
)


def thing(shape):
    return Thing("small", "red", shape, 32.0, 32.0, 7.0)


@pytest.mark.parametrize(
    ("shape", "case", "said", "short"),
    [
        ("star", "nominative", "der kleine rote stern", "er"),
        ("star", "accusative", "den kleinen roten stern", "ihn"),
        ("star", "dative", "dem kleinen roten stern", None),
        ("circle", "nominative", "die kleine rote scheibe", "sie"),
        ("circle", "accusative", "die kleine rote scheibe", "sie"),
        ("circle", "dative", "der kleinen roten scheibe", None),
        ("square", "nominative", "das kleine rote quadrat", "es"),
        ("square", "accusative", "das kleine rote quadrat", "es"),
        ("square", "dative", "dem kleinen roten quadrat", None),
    ],
)
def test_german_agrees_in_gender_and_case(shape, case, said, short):
    assert described(thing(shape), case) == said
    if short is not None:
        assert pronoun(thing(shape), case) == short


def test_every_shape_has_a_noun_and_all_three_genders_occur():
    assert set(NOUNS) == set(SHAPES)
    assert {noun.gender for noun in NOUNS.values()} == {"m", "f", "n"}


@given(translations)
def test_a_translation_is_a_function_of_its_seed_in_words_of_the_vocabulary(made):
    again = make_translation(made.seed[0], ["train", "validation", "test"][made.seed[1]], *made.seed[2:])
    assert again == made
    assert np.array_equal(again.picture(), made.picture())
    assert set(f"{made.context} {made.captions[0]}".split()) <= set(TRANSLATION_VOCABULARY)


@given(translations)
def test_the_german_sentence_is_true_of_the_picture(made):
    words = made.captions[0].split()
    stems = {german: english for english, german in ADJECTIVES.items()}
    nouns = {noun.word: shape for shape, noun in NOUNS.items()}
    attributes = [stems.get(word.removesuffix("n").removesuffix("e")) for word in words]
    told = [
        (attributes[i - 2], attributes[i - 1], nouns[word]) for i, word in enumerate(words) if word in nouns
    ]  # size, colour, shape
    there = [(one.size, one.colour, one.shape) for one in made.things]
    assert told == (there if len(told) == len(there) else there[1:])
    if "links" in words and len(there) == 2:
        assert made.things[0].x < made.things[1].x
    if "über" in words:
        assert made.things[0].y < made.things[1].y


@given(translations)
def test_every_sentence_leaves_something_to_the_picture(made):
    """Word for word, the English names fewer colours and shapes than the German."""
    english, german = made.context.split(), made.captions[0]
    blurred = "one" in english or "it" in english
    colours = sum(word in ADJECTIVES for word in english)
    stems = sum(german.count(stem) for stem in ADJECTIVES.values())
    assert blurred or colours < stems


def test_one_sentence_has_many_translations_and_one_translation_many_sentences():
    german, english = defaultdict(set), defaultdict(set)
    for index in range(6000):
        made = make_translation(0, "train", 1, index)
        german[made.context].add(made.captions[0])
        english[made.captions[0]].add(made.context)
    pronouns = {text.split()[0] for text in german["it is in the upper left"]}
    assert pronouns == {"er", "sie", "es"}
    assert len(german["the small circle is in the upper left"]) == 6
    assert max(map(len, english.values())) > 1


def test_settings_ask_for_translations():
    split = load_split(DataSettings(source="scenes", task="translation", levels=[1, 2], scenes=10), "train")
    assert isinstance(split, SceneTranslations)
    assert [split[i]["level"] for i in range(4)] == [1, 2, 1, 2]
    assert split[1]["captions"] == make_translation(0, "train", 2, 0).captions


# Captioners that only read


PAIRS = "english,german\na red star,ein roter stern\na blue star,ein blauer stern\na red ring,ein roter ring\n"


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A captioner without image encoder, trained for four steps on a table of sentence pairs; its folder."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "pairs.csv").write_text(PAIRS)
    settings = load_settings(runs.ROOT / "configs/translate.yaml", [*runs.TINY, *overrides(folder)])
    train(settings)
    return folder


def overrides(folder):
    return [
        "model.image_encoder=null",
        "data.source=table",
        "data.validation_split=train",
        f"data.path={folder / 'pairs.csv'}",
        "data.image_column=null",
        "data.context_column=english",
        "data.caption_column=german",
        f"training.output_dir={folder}",
        "training.per_device_train_batch_size=3",
        "training.image_encoder_learning_rate=null",
    ]


def command(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.output


def test_a_table_without_images_trains_a_text_only_encoder_decoder(reader):
    model, _ = load(reader / "best")
    assert model.config.modalities == ["context"]
    assert len(runs.losses(reader)) == 4
    assert all(np.isfinite(runs.losses(reader)))


def test_it_is_evaluated_and_ablated_by_the_same_command(reader):
    config = runs.ROOT / "configs/translate.yaml"
    code, shown = command(
        "evaluate", "--model", reader / "best", "--config", config, *overrides(reader), "--ablate", "--num-workers", 0
    )
    assert code == 0, shown
    assert "context blanked" in shown
    assert "image blanked" not in shown


def test_it_captions_a_file_of_texts_or_one_text_by_the_same_command(reader):
    (reader / "texts.txt").write_text("a red star\n\na blue ring\na red star\n")
    code, shown = command("caption", "--model", reader / "best", "--context-file", reader / "texts.txt", "--json")
    records = [json.loads(line) for line in shown.splitlines() if line.startswith("{")]
    assert code == 0, shown
    assert [record["image"] for record in records] == ["a red star", "a blue ring", "a red star"]
    assert records[0] == records[2]
    output = reader / "out.jsonl"
    code, shown = command(
        "caption", "--model", reader / "best", "--context-file", reader / "texts.txt", "--output", output
    )
    assert code == 0, shown
    written = [json.loads(line)["caption"] for line in output.read_text().splitlines()]
    assert written == [record["caption"] for record in records]
    code, shown = command("caption", "--model", reader / "best", "--context", "a red star")
    assert code == 0, shown
    assert f"a red star\t{written[0]}" in shown


def test_the_library_reads_texts_without_images(reader):
    records = list(caption(None, reader / "best", context=["a red star", "a blue ring"], beams=1))
    assert [record["context"] for record in records] == ["a red star", "a blue ring"]
    assert all(isinstance(record["caption"], str) for record in records)
    with pytest.raises(CaptioningError, match="cannot caption images; give texts with `--context-file`"):
        list(caption([np.zeros((8, 8, 3), np.uint8)], reader / "best"))


def test_a_captioner_that_looks_too_takes_texts_alone():
    (record,) = caption(None, "scenes-separate", context="the red circle anna", beams=1)
    assert record["context"] == "the red circle anna"
    assert "caption" in record


def test_texts_and_images_exclude_each_other_and_empty_files_are_refused(reader, tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    code, shown = command("caption", "photo.jpg", "--context-file", tmp_path / "empty.txt")
    assert code == 2
    assert "takes the place of images" in " ".join(shown.split())
    code, shown = command("caption", "--context-file", tmp_path / "empty.txt")
    assert code == 2
    assert "write one per line" in " ".join(shown.split())
