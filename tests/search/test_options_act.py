"""Every option of a search, in settings as in ids, changes what some search finds or is refused by its name."""

import warnings
from dataclasses import fields

import pytest
import torch
from conftest import tiny_batch
from samples import TEXTS
from searches import quiet, tiny_captioner

from captioner import CaptionerProcessor
from captioner.adopt import train_tokenizer
from captioner.base import GenerationSettings, SettingsError, load_settings
from captioner.model import ImageSettings
from captioner.search import SearchError, SearchOptions, search, search_options

pytestmark = quiet
DRAWN = {"do_sample": True, "num_beams": 1, "num_return_sequences": 4}
GROUPS = {"num_beams": 4, "num_beam_groups": 2, "num_return_sequences": 4}
LONG = {"num_beams": 2, "length_penalty": 3.0}
# Option → a search, and the same with the option set.
ACTS = {
    "num_beams": ({"num_beams": 1}, {"num_beams": 3}),
    "max_new_tokens": ({}, {"max_new_tokens": 3}),
    "min_new_tokens": ({"num_beams": 1}, {"num_beams": 1, "min_new_tokens": 9}),
    "length_penalty": ({}, {"length_penalty": -3.0}),
    "early_stopping": (LONG, LONG | {"early_stopping": True}),
    "no_repeat_ngram_size": ({"num_beams": 1}, {"num_beams": 1, "no_repeat_ngram_size": 1}),
    "repetition_penalty": ({"num_beams": 1}, {"num_beams": 1, "repetition_penalty": 5.0}),
    "num_beam_groups": ({"num_beams": 4, "num_return_sequences": 4}, GROUPS | {"diversity_penalty": 1.0}),
    "diversity_penalty": (GROUPS | {"diversity_penalty": 0.1}, GROUPS | {"diversity_penalty": 5.0}),
    "do_sample": ({"num_beams": 1}, {"num_beams": 1, "do_sample": True}),
    "temperature": (DRAWN, DRAWN | {"temperature": 4.0}),
    "top_k": (DRAWN, DRAWN | {"top_k": 1}),
    "top_p": (DRAWN, DRAWN | {"top_p": 0.1}),
    "num_return_sequences": ({"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}),
}  # fmt: skip
IN_WORDS = {"bad_words": ({}, {"bad_words": ["{said}"]}), "force_words": ({}, {"force_words": ["dog"]})}
IN_IDS = {
    "bad_words_ids": ({}, {"bad_words_ids": [["{said}"]]}),
    "force_words_ids": ({"num_beams": 3}, {"num_beams": 3, "force_words_ids": [[5, 9]]}),
    "eos_token_id": ({}, {"eos_token_id": ["{said}"]}),
    "suppress_tokens": ({}, {"suppress_tokens": ["{said}"]}),
}
REFUSED = [
    ({"min_new_tokens": 40, "max_new_tokens": 5}, "`min_new_tokens` 40 is more than `max_new_tokens` 5"),
    ({"diversity_penalty": 1.0}, "`diversity_penalty` 1.0 acts between groups"),
    ({"temperature": 0.5}, "`temperature` 0.5 is of words that are drawn"),
    ({"top_k": 3}, "`top_k` 3 is of words that are drawn"),
    ({"top_p": 0.5}, "`top_p` 0.5 is of words that are drawn"),
    ({"num_beams": 2, "num_return_sequences": 3}, "`num_return_sequences`.*`num_beams` is 2"),
    ({"num_beams": 2, "do_sample": True}, "num_beams=1"),
    ({"num_beams": 5, "num_beam_groups": 2}, "multiple"),
]
REFUSED_SETTINGS = [
    ({"num_beams": 4, "num_beam_groups": 2}, "`diversity_penalty`; set it above 0"),
    ({"num_beams": 1, "do_sample": True, "force_words": ["dog"]}, "`force_words` takes beams"),
    ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "force_words": ["dog"]}, "one group"),
    ({"force_words": ["red  dog", "Red dog"]}, "names a word twice"),
    ({"bad_words": [" "]}, "one is blank"),
    ({"no_repeat_ngram_size": 9, "max_new_tokens": 4}, "`no_repeat_ngram_size` 9"),
    ({"length_penalty": float("nan")}, "'length_penalty' is nan"),
    ({"temperature": float("inf")}, "'temperature' is inf"),
]
OUT_OF_RANGE = [
    {"num_beams": 0}, {"num_beam_groups": 0}, {"num_return_sequences": 0}, {"min_new_tokens": -1}, {"top_k": -1},
    {"top_p": 0.0}, {"top_p": 1.5}, {"temperature": 0.0}, {"temperature": float("nan")}, {"repetition_penalty": 0.0},
    {"length_penalty": float("inf")}, {"diversity_penalty": -1.0}, {"early_stopping": "always"},
    {"no_repeat_ngram_size": -1}, {"bad_words_ids": [[]]}, {"force_words_ids": [[3], []]},
]  # fmt: skip


@pytest.fixture(scope="module")
def pair():
    tokenizer = train_tokenizer(TEXTS * 2, "word", vocab_size=20)
    model = tiny_captioner(vocab_size=len(tokenizer), seed=3)
    return model, CaptionerProcessor(ImageSettings(32, 32), tokenizer, max_caption_length=20)


@pytest.fixture(scope="module")
def memory(pair):
    return pair[0].encode(pixel_values=tiny_batch(samples=8)[0]["pixel_values"])


def found(model, memory, options):
    return search(model, memory, options, seeds=list(range(8)))


def filled(options, word):
    """The options with what is said without them put in."""
    put = {"{said}": word}
    inner = lambda value: [inner(one) for one in value] if isinstance(value, list) else put.get(value, value)  # noqa: E731
    return {name: inner(value) if isinstance(value, list) else value for name, value in options.items()}


@pytest.mark.parametrize("name", GenerationSettings.model_fields)
def test_every_setting_changes_what_a_search_finds(name, pair, memory):
    without, using = (ACTS | IN_WORDS)[name]
    base = {"max_new_tokens": 12}
    first = found(pair[0], memory, search_options(GenerationSettings(**base | without), *pair))
    said = pair[1].tokenizer.convert_ids_to_tokens(next(token for token in first[0][0].ids if token > 3))
    options = search_options(GenerationSettings(**base | filled(using, said)), *pair)
    assert found(pair[0], memory, options) != first


@pytest.mark.parametrize("name", [field.name for field in fields(SearchOptions)])
def test_every_option_changes_what_a_search_finds(name, pair, memory):
    without, using = (ACTS | IN_IDS)[name]
    first = found(pair[0], memory, SearchOptions(**without))
    using = filled(using, first[0][0].ids[0])
    assert found(pair[0], memory, SearchOptions(**using)) != first


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_does_not_go_together_is_refused_in_settings_and_in_options(options, message):
    with pytest.raises(SearchError, match=message):
        SearchOptions(**options)
    with pytest.raises(SettingsError, match=message) as error:
        load_settings(None, [f"generation.{name}={str(value).lower()}" for name, value in options.items()])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("options", "message"), REFUSED_SETTINGS)
def test_settings_without_effect_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        GenerationSettings.of(**options)


@pytest.mark.parametrize("options", OUT_OF_RANGE, ids=str)
def test_a_value_that_means_nothing_is_refused_by_name(options):
    with pytest.raises(SearchError, match=next(iter(options))):
        SearchOptions(**options)


def test_more_tokens_than_positions_are_refused_where_somebody_asked_for_them(pair):
    assert search_options(GenerationSettings(), *pair).max_new_tokens == 23
    assert search_options(GenerationSettings(max_new_tokens=23), *pair).max_new_tokens == 23
    with pytest.raises(SearchError, match="`max_new_tokens` 24 .* lower it to 23"):
        search_options(GenerationSettings(max_new_tokens=24), *pair)
    with pytest.raises(SearchError, match="`min_new_tokens` 25 .* lower it to 23"):
        search_options(GenerationSettings(min_new_tokens=25), *pair)


@pytest.mark.parametrize("option", ["bad_words", "force_words"])
@pytest.mark.parametrize("word", ["<unk>", "<eos>", "zebra", "dog zebra"])
def test_a_word_that_the_vocabulary_cannot_write_is_refused(option, word, pair):
    with pytest.raises(SearchError, match=f"cannot write '{word}'"):
        search_options(GenerationSettings(**{option: [word]}), *pair)


@pytest.mark.parametrize("own", [{"num_beams": 1}, {"num_beams": 1, "do_sample": True}], ids=str)
def test_what_compares_beams_is_named_where_there_is_one(own, pair):
    with pytest.warns(UserWarning, match="`early_stopping` compares beams"):
        search_options(GenerationSettings(early_stopping=True, **own), *pair)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search_options(GenerationSettings(early_stopping=True, length_penalty=0.5), *pair)


@pytest.mark.parametrize("name", ["eos_token_id", "suppress_tokens", "bad_words_ids", "force_words_ids"])
@pytest.mark.parametrize("token", [-1, 20])
def test_ids_that_no_token_has_are_refused(name, token):
    model = tiny_captioner()
    memory = model.encode(**tiny_batch(samples=1)[0])
    ids = [[token]] if name.endswith("_ids") else [token]
    with pytest.raises(SearchError, match=f"`{name}` names {token}, but tokens are numbers from 0 to 19"):
        search(model, memory, SearchOptions(**{name: ids}))


def test_captioners_of_several_vocabularies_are_refused():
    models = [tiny_captioner(), tiny_captioner(vocab_size=21)]
    memories = [model.encode(**tiny_batch(samples=1)[0]) for model in models]
    with pytest.raises(SearchError, match="one vocabulary, but have 20 and 21"):
        search(models, memories, SearchOptions())


def test_a_search_of_no_images_finds_nothing():
    model = tiny_captioner()
    memory = model.encode(**tiny_batch(samples=2)[0]).select(torch.tensor([], dtype=torch.long))
    assert search(model, memory, SearchOptions()) == []
