"""Searches that have no reference in `generate`: sampling, ensembles, groups of beams, forced words; by brute force."""

from collections import Counter
from itertools import product

import pytest
import torch
from conftest import tiny_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import (
    ALONE,
    EOS,
    SEARCHES,
    every_mode_once,
    flat,
    log_probability,
    quiet,
    tiny_captioner,
    until_end,
)

from captioner.search import SearchOptions, search
from captioner.search.constraints import Phrases

pytestmark = quiet


# Sampling


def test_samples_come_from_the_distribution_that_the_options_leave():
    model = tiny_captioner()
    memory = model.encode(**tiny_batch(samples=1)[0])
    count, temperature = 4000, 1.5
    options = SearchOptions(
        do_sample=True, num_return_sequences=count, max_new_tokens=1, temperature=temperature, top_k=6, top_p=1.0
    )
    drawn = Counter(one.ids[0] for one in search(model, memory, options)[0])
    logits = model.decode(torch.ones(1, 1, dtype=torch.long), memory).logits[0, -1]
    best, tokens = (logits / temperature).topk(6)
    expected = dict(zip(tokens.tolist(), best.softmax(-1).tolist(), strict=True))
    assert set(drawn) <= set(expected)
    for token, probability in expected.items():
        assert abs(drawn[token] / count - probability) < 4 * (probability * (1 - probability) / count) ** 0.5


def test_a_seed_gives_an_image_its_captions_and_another_seed_others():
    model, options = tiny_captioner(), SearchOptions(max_new_tokens=9, **ALONE["sampling"])
    memory = model.encode(**tiny_batch(samples=2)[0])
    first, again = search(model, memory, options, seeds=[3, 4]), search(model, memory, options, seeds=[3, 4])
    assert first == again
    other = search(model, memory, options, seeds=[3, 5])
    assert other[0] == first[0]
    assert other[1] != first[1]
    assert len({tuple(one.ids) for one in first[0]}) > 1


def test_a_low_temperature_is_greedy():
    model = tiny_captioner()
    memory = model.encode(**tiny_batch(samples=3)[0])
    cold = search(model, memory, SearchOptions(do_sample=True, temperature=1e-4))
    assert flat(cold)[0] == flat(search(model, memory, SearchOptions()))[0]


# Ensembles


@pytest.mark.parametrize("name", ["greedy", "several beams", "early", *ALONE])
def test_an_ensemble_of_one_captioner_twice_is_that_captioner(name):
    model, options = tiny_captioner(), SearchOptions(max_new_tokens=7, **(SEARCHES | ALONE)[name])
    memory = model.encode(**tiny_batch(samples=4)[0])
    alone, twice = search(model, memory, options), search([model, model], [memory, memory], options)
    assert flat(twice)[0] == flat(alone)[0]
    torch.testing.assert_close(flat(twice)[1], flat(alone)[1], atol=1e-4, rtol=1e-4)


def test_an_ensemble_follows_the_mean_of_the_probabilities():
    models = [tiny_captioner(seed=0), tiny_captioner("separate", "gated", seed=1)]
    memories = [model.encode(**tiny_batch(samples=3)[0]) for model in models]
    ids = torch.ones(3, 1, dtype=torch.long)
    for _ in range(6):
        each = [
            model.decode(ids, memory).logits[:, -1].softmax(-1) for model, memory in zip(models, memories, strict=True)
        ]
        ids = torch.cat([ids, sum(each).argmax(-1, keepdim=True)], dim=1)
    found, _ = flat(search(models, memories, SearchOptions(max_new_tokens=6)))
    assert found == [until_end(row) for row in ids[:, 1:].tolist()]
    assert found != flat(search(models[0], memories[0], SearchOptions(max_new_tokens=6)))[0]


# Diverse beams and forced words, against brute force


def slow_diverse_beams(model, memory, options):
    """Vijayakumar et al.'s algorithm for one image, a beam at a time."""
    size = options.num_beams // options.num_beam_groups
    groups = [{"beams": [([], 0.0)], "ended": [], "done": False} for _ in range(options.num_beam_groups)]
    for length in range(1, options.max_new_tokens + 1):
        taken = Counter()
        for group in groups:
            options_here = []
            for row, score in group["beams"]:
                logits = model.decode(torch.tensor([[1, *row]]), memory).logits[0, -1]
                for token, value in enumerate(logits.log_softmax(-1).tolist()):
                    preference = score + value - options.diversity_penalty * taken[token]
                    options_here.append((preference, score + value, [*row, token]))
            best = sorted(options_here, key=lambda entry: -entry[0])[: 2 * size]
            last = length == options.max_new_tokens
            ends = [row[-1] == EOS for *_, row in best]
            if not group["done"]:
                new = [
                    (score / length, row)
                    for (_, score, row), end in zip(best[:size], ends, strict=False)
                    if end or last
                ]
                group["ended"] = sorted(group["ended"] + new, key=lambda entry: -entry[0])[:size]
            group["beams"] = [(row, score) for (_, score, row), end in zip(best, ends, strict=True) if not end][:size]
            taken.update(row[-1] for row, _ in group["beams"])
            if len(group["ended"]) == size and not last:
                hoped = max(score for _, score in group["beams"]) / length
                group["done"] |= hoped <= group["ended"][-1][0]
        if all(group["done"] for group in groups):
            break
    ranked = [(rank, -score, row) for group in groups for rank, (score, row) in enumerate(group["ended"])]
    return [row for *_, row in sorted(ranked)][: options.num_return_sequences]


@pytest.mark.parametrize("penalty", [0.0, 0.5, 3.0])
def test_diverse_beams_equal_the_algorithm_run_a_beam_at_a_time(penalty):
    model = tiny_captioner()
    memory = model.encode(**tiny_batch(samples=3)[0])
    options = SearchOptions(
        num_beams=6, num_beam_groups=3, num_return_sequences=6, diversity_penalty=penalty, max_new_tokens=6
    )
    for image, captions in enumerate(search(model, memory, options)):
        expected = slow_diverse_beams(model, memory.select(torch.tensor([image])), options)
        assert [one.ids for one in captions] == expected


def test_a_diversity_penalty_makes_the_best_captions_of_the_groups_differ():
    model = tiny_captioner()
    memory = model.encode(**tiny_batch(samples=4)[0])
    options = {"num_beams": 4, "num_beam_groups": 4, "num_return_sequences": 4, "max_new_tokens": 8}
    distinct = []
    for penalty in (0.0, 5.0):
        found = search(model, memory, SearchOptions(diversity_penalty=penalty, **options))
        distinct.append([len({tuple(one.ids) for one in captions}) for captions in found])
    assert distinct[0] == [1, 1, 1, 1]
    assert distinct[1] == [4, 4, 4, 4]


def contains(row, phrase):
    return any(row[i : i + len(phrase)] == phrase for i in range(len(row)))


def every_caption(words, length):
    """All rows that end with the end token, or are as long as allowed."""
    others = [token for token in range(words) if token != EOS]
    for count in range(length):
        yield from ([*row, EOS] for row in product(others, repeat=count))
    yield from (list(row) for row in product(others, repeat=length))


@every_mode_once
@pytest.mark.parametrize("phrases", [[[3, 4]], [[4], [3]], [[4, 4, 3]], [[0, 3], [3, 1]]], ids=str)
def test_forced_words_with_enough_beams_find_the_best_caption_that_has_them(mode, phrases):
    model, length = tiny_captioner(*mode, vocab_size=5), 4
    memory = model.encode(**tiny_batch(samples=2)[0])
    options = SearchOptions(
        num_beams=100, num_return_sequences=5, max_new_tokens=length, force_words_ids=phrases,
        length_penalty=0.0, early_stopping="never",
    )  # fmt: skip
    rows = [row for row in every_caption(5, length) if all(contains(row, phrase) for phrase in phrases)]
    for image, captions in enumerate(search(model, memory, options)):
        own = memory.select(torch.tensor([image]))
        best = sorted(rows, key=lambda row: -log_probability(model, own, row))[:5]
        assert [one.ids for one in captions] == best


@settings(max_examples=30, deadline=None)
@given(
    phrases=st.lists(st.lists(st.integers(3, 19), min_size=1, max_size=3), min_size=1, max_size=3),
    beams=st.integers(1, 4),
    spare=st.integers(0, 4),
)
def test_every_caption_says_the_forced_words_even_where_there_is_room_for_nothing_else(phrases, beams, spare):
    model = tiny_captioner()
    memory = model.encode(**tiny_batch(samples=2)[0])
    room = sum(map(len, phrases)) + spare
    options = SearchOptions(num_beams=beams, force_words_ids=phrases, max_new_tokens=room)
    for captions in search(model, memory, options):
        assert all(contains(captions[0].ids, phrase) for phrase in phrases)


def test_words_that_would_come_anyway_change_nothing():
    model = tiny_captioner()
    memory = model.encode(**tiny_batch(samples=1)[0])
    options = {"num_beams": 5, "max_new_tokens": 6}
    best = search(model, memory, SearchOptions(**options))[0][0]
    forced = search(model, memory, SearchOptions(force_words_ids=[best.ids[:1]], **options))[0][0]
    assert forced.score >= best.score - 1e-5


@given(row=st.lists(st.integers(0, 2), max_size=8), phrase=st.lists(st.integers(0, 2), min_size=1, max_size=3))
def test_the_progress_of_a_phrase_is_what_stands_of_it(row, phrase):
    progress = Phrases([phrase], torch.device("cpu")).progress(torch.tensor([row], dtype=torch.long))
    begun = max(n for n in range(len(phrase)) if n == 0 or row[-n:] == phrase[:n])
    assert progress.item() == (len(phrase) if contains(row, phrase) else begun)
