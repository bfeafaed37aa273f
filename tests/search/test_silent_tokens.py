"""Tokens that are never said: in every search and in `generate`, unless they are asked for."""

import pytest
import torch
from conftest import tiny_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import ALONE, EOS, SEARCHES, assert_equal_to_generate, every_mode_once, flat, quiet, tiny_captioner

from captioner.model import MODES
from captioner.search import SearchOptions, search

pytestmark = quiet


def said(found):
    """All ids that stand in captions, without those that end them."""
    return {token for row in flat(found)[0] for token in row} - {EOS}


def silenced(*mode, seed=0):
    """A captioner that may not say the tokens that it says most; its memory, and these tokens."""
    model = tiny_captioner(*mode, seed=seed)
    memory = model.encode(**tiny_batch(samples=4, seed=seed)[0])
    every = {"do_sample": True, "num_return_sequences": 8, "top_k": 3}
    loud = [*said(search(model, memory, SearchOptions(max_new_tokens=8)))]
    loud += [*said(search(model, memory, SearchOptions(max_new_tokens=8, **every)))]
    model.generation_config.suppress_tokens = sorted({*loud} - {7, 9, 5})[:8]
    return model, memory, model.generation_config.suppress_tokens


@every_mode_once
@pytest.mark.parametrize("name", SEARCHES | ALONE)
def test_no_search_says_a_silent_token(mode, name):
    model, memory, silent = silenced(*mode)
    options = SearchOptions(max_new_tokens=8, **(SEARCHES | ALONE)[name])
    assert not said(search(model, memory, options)) & {*silent}
    assert not said(search([model, model], [memory, memory], options)) & {*silent}
    assert silent


@pytest.mark.parametrize("name", ["greedy", "sampling"])
def test_who_asks_for_silent_tokens_gets_them(name):
    model, memory, silent = silenced()
    options = {"max_new_tokens": 8} | (SEARCHES | ALONE)[name]
    assert said(search(model, memory, SearchOptions(suppress_tokens=(), **options))) & {*silent}


def test_a_silent_token_that_is_forced_is_said_and_no_other_is():
    model, memory, silent = silenced()
    options = SearchOptions(num_beams=4, max_new_tokens=8, force_words_ids=[[silent[0], 5]])
    for captions in search(model, memory, options):
        assert silent[0] in captions[0].ids
    assert not said(search(model, memory, options)) & {*silent[1:]}


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 7),
    silent=st.lists(st.sampled_from([token for token in range(20) if token != EOS]), unique=True, max_size=12),
    given_here=st.booleans(),
    options=st.fixed_dictionaries(
        {
            "num_beams": st.integers(1, 4),
            "max_new_tokens": st.integers(4, 9),
            "min_new_tokens": st.integers(0, 4),
            "no_repeat_ngram_size": st.sampled_from([0, 2]),
            "bad_words_ids": st.sampled_from([[[7]], [[4, 5], [9]]]),
            "early_stopping": st.sampled_from([True, False, "never"]),
        }
    ),
)
def test_with_silent_tokens_any_search_gives_what_generate_gives(seed, silent, given_here, options):
    mode = list(MODES)[seed % len(MODES)]
    model = tiny_captioner(*mode, seed=seed)
    memory = model.encode(**tiny_batch(samples=3, seed=seed)[0])
    if given_here:
        options = options | {"suppress_tokens": silent}
    else:
        model.generation_config.suppress_tokens = silent
    assert_equal_to_generate(model, memory, **options)
    alone = {**ALONE["diverse"], "max_new_tokens": 6}, {**ALONE["sampling"], "max_new_tokens": 6}
    for own in alone:
        assert not said(search(model, memory, SearchOptions(suppress_tokens=silent, **own))) & {*silent}


def test_samples_come_from_the_words_that_may_be_said():
    model = tiny_captioner()
    memory = model.encode(**tiny_batch(samples=1)[0])
    silent = [0, 1, 3, 4, 6]
    options = SearchOptions(
        do_sample=True, num_return_sequences=2000, max_new_tokens=1, top_k=0, suppress_tokens=silent
    )
    drawn = torch.tensor([row[0] for row in flat(search(model, memory, options))[0]])
    logits = model.decode(torch.ones(1, 1, dtype=torch.long), memory).logits[0, -1]
    expected = logits.index_fill(0, torch.tensor(silent), -torch.inf).softmax(-1)
    torch.testing.assert_close(drawn.bincount(minlength=20) / len(drawn), expected, atol=0.05, rtol=0)


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from([name for name in SEARCHES | ALONE if "several ends" not in name and "forbidden" not in name]),
    silent=st.lists(st.sampled_from([0, 1, 3, 4, 6, 8, *range(10, 20)]), unique=True, min_size=1, max_size=10),
    seed=st.integers(0, 7),
)
def test_in_every_kind_of_search_a_silent_token_is_a_forbidden_word(name, silent, seed):
    model = tiny_captioner(*list(MODES)[seed % len(MODES)], seed=seed)
    memory = model.encode(**tiny_batch(samples=3, seed=seed)[0])
    options = {"max_new_tokens": 7} | (SEARCHES | ALONE)[name]
    found = search(model, memory, SearchOptions(suppress_tokens=silent, **options), seeds=[seed, 1, 2])
    words = [[token] for token in silent]
    assert found == search(model, memory, SearchOptions(bad_words_ids=words, **options), seeds=[seed, 1, 2])
