"""The fast search: `generate`'s ids, brute force where it has none, and no caption that depends on its batch."""

from collections import Counter
from itertools import product

import pytest
import torch
from conftest import MODES_AND_NORMS, tiny_batch
from conftest import tiny_captioner as tied_captioner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor

from captioner import decoding
from captioner.attention import MODES
from captioner.constraints import NoRepeatedNGrams, Phrases
from captioner.decoding import SearchError, SearchOptions, search
from captioner.stepping import CaptionerStepper, Leaving

pytestmark = pytest.mark.filterwarnings(
    "ignore:Unfeasible length", "ignore:Using the model-agnostic", "ignore:flex_att"
)
EOS = 2
SEARCHES = {
    "greedy": {},
    "beam": {"num_beams": 3},
    "several beams": {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.3},
    "early": {"num_beams": 3, "num_return_sequences": 2, "early_stopping": True, "length_penalty": 2.0},
    "never early": {"num_beams": 3, "early_stopping": "never", "min_new_tokens": 3},
    "no repeats": {"num_beams": 3, "no_repeat_ngram_size": 2, "repetition_penalty": 1.2},
    "forbidden": {"num_beams": 2, "bad_words_ids": [[7], [4, 5], [6, 8, 9]]},
    "several ends": {"num_beams": 4, "num_return_sequences": 4, "eos_token_id": [2, 5, 9]},
    "greedy, forbidden": {"bad_words_ids": [[7], [4, 5]], "min_new_tokens": 2, "repetition_penalty": 1.3},
}
ALONE = {  # what has no reference in `generate`
    "diverse": {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.7, "num_return_sequences": 5},
    "forced": {"num_beams": 4, "num_return_sequences": 2, "force_words_ids": [[7, 9], [5]]},
    "sampling": {"do_sample": True, "num_return_sequences": 4, "top_k": 12, "top_p": 0.95, "temperature": 1.4},
}
every_mode = pytest.mark.parametrize(("conditioning", "fusion", "norm"), MODES_AND_NORMS)
every_mode_once = pytest.mark.parametrize("mode", MODES, ids=str)


def tiny_captioner(*mode, seed=0, **decoder):
    """With a vocabulary head of its own: a tied one mostly repeats the last word."""
    decoder = {"tie_word_embeddings": False, "initializer_range": 0.3} | decoder
    return tied_captioner(*mode, decoder=decoder, seed=seed)


def until_end(row, ends=(EOS,)):
    """Ids up to and including the first end token."""
    at = [i for i, token in enumerate(row) if token in ends]
    return row[: at[0] + 1] if at else row


def reference(model, memory, prompt=None, prompt_length=1, **options):
    """Ids and scores (None for greedy) of `generate`."""
    if options.get("num_beams", 1) > 1:
        options["output_scores"] = True
    if prompt is not None:
        options["decoder_input_ids"] = prompt
    out = model.generate(encoder_outputs=memory, return_dict_in_generate=True, **options)
    ends = options.get("eos_token_id", [EOS])
    ids = [until_end(row[prompt_length:], ends) for row in out.sequences.tolist()]
    return ids, getattr(out, "sequences_scores", None)


def flat(found):
    """Ids of all captions, and their scores."""
    return [one.ids for image in found for one in image], torch.tensor([one.score for image in found for one in image])


def assert_equal_to_generate(model, memory, **options):
    expected, scores = reference(model, memory, **options)
    ids, own_scores = flat(search(model, memory, SearchOptions(**options)))
    assert ids == expected
    if scores is not None:
        torch.testing.assert_close(own_scores, scores, rtol=1e-4, atol=1e-4)


@every_mode
@pytest.mark.parametrize("name", ["greedy", "several beams", "several ends"])
def test_ids_and_scores_equal_those_of_generate_in_every_mode(conditioning, fusion, norm, name):
    model = tiny_captioner(conditioning, fusion, norm)
    inputs, _ = tiny_batch(samples=4)
    inputs["context_attention_mask"][3] = 0
    assert_equal_to_generate(model, model.encode(**inputs), max_new_tokens=8, **SEARCHES[name])


LLAMA = {"positions": "rotary", "norm": "rms", "num_key_value_heads": 1, "feed_forward": "gated", "activation": "silu"}
BERT = {"norm_position": "post", "embedding_norm": True, "head_transform": True, "head_bias": True}


@pytest.mark.parametrize("blocks", [LLAMA, BERT], ids=["llama", "bert"])
@pytest.mark.parametrize("name", ["greedy", "several beams", "no repeats"])
def test_every_family_of_decoders_gives_what_generate_gives(blocks, name):
    model = tiny_captioner("separate", "serial", **blocks)
    assert_equal_to_generate(model, model.encode(**tiny_batch(samples=4)[0]), max_new_tokens=9, **SEARCHES[name])


@pytest.mark.parametrize("name", SEARCHES)
def test_every_option_gives_what_generate_gives(name):
    model = tiny_captioner()
    memory = model.encode(**tiny_batch(samples=5)[0])
    for tokens in (1, 2, 9):
        assert_equal_to_generate(model, memory, max_new_tokens=tokens, **SEARCHES[name])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 7),
    beams=st.integers(1, 5),
    captions=st.integers(1, 5),
    options=st.fixed_dictionaries(
        {
            "max_new_tokens": st.integers(1, 10),
            "min_new_tokens": st.integers(0, 4),
            "length_penalty": st.sampled_from([-1.0, 0.0, 0.4, 1.0, 2.0]),
            "early_stopping": st.sampled_from([True, False, "never"]),
            "no_repeat_ngram_size": st.integers(0, 3),
            "repetition_penalty": st.sampled_from([1.0, 1.4]),
            "eos_token_id": st.sampled_from([[2], [4, 2], [2, 8, 11]]),
        }
    ),
)
def test_any_options_together_give_what_generate_gives(seed, beams, captions, options):
    mode = list(MODES)[seed % len(MODES)]
    model = tiny_captioner(*mode, seed=seed)
    memory = model.encode(**tiny_batch(samples=3, seed=seed)[0])
    options |= {"num_beams": beams, "num_return_sequences": min(beams, captions)}
    assert_equal_to_generate(model, memory, **options)


@pytest.mark.parametrize("beams", [1, 4])
def test_without_an_end_token_captions_are_as_long_as_allowed(beams):
    model = tiny_captioner()
    memory = model.encode(**tiny_batch(samples=3)[0])
    ids, _ = flat(search(model, memory, SearchOptions(num_beams=beams, max_new_tokens=7, eos_token_id=())))
    model.generation_config.eos_token_id = None
    expected = model.generate(encoder_outputs=memory, num_beams=beams, max_new_tokens=7)[:, 1:].tolist()
    assert ids == expected
    assert {len(row) for row in ids} == {7}


@every_mode_once
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("start", [True, False])
def test_a_prompt_is_continued_as_generate_does(mode, beams, start):
    model = tiny_captioner(*mode)
    memory = model.encode(**tiny_batch(samples=3)[0])
    prompt = torch.tensor([[1, 5, 9], [1, 5, 6], [1, 9, 5]])
    options = {"num_beams": beams, "max_new_tokens": 6, "no_repeat_ngram_size": 2, "min_new_tokens": 2}
    given_ids = prompt if start else prompt[:, 1:]
    expected, _ = reference(model, memory, prompt=given_ids, prompt_length=3, **options)
    assert flat(search(model, memory, SearchOptions(**options), prompt=given_ids))[0] == expected


@pytest.mark.parametrize("name", SEARCHES | ALONE)
@pytest.mark.parametrize("mode", [("concatenated", None), ("separate", "hierarchical")], ids=str)
def test_company_in_a_batch_never_changes_a_caption(mode, name):
    model, options = tiny_captioner(*mode), SearchOptions(max_new_tokens=9, **(SEARCHES | ALONE)[name])
    inputs, _ = tiny_batch(samples=6)
    inputs["image_mask"] = torch.tensor([True, True, False, True, True, True])
    inputs["context_attention_mask"][3] = 0
    seeds = [11, 5, 5, 8, 0, 3]
    together = search(model, model.encode(**inputs), options, seeds=seeds)
    for i, expected in enumerate(together):
        alone = model.encode(**{key: value[i : i + 1] for key, value in inputs.items()})
        (found,) = search(model, alone, options, seeds=seeds[i : i + 1])
        assert [one.ids for one in found] == [one.ids for one in expected]


@every_mode_once
def test_a_missing_modality_is_captioned_as_generate_does(mode):
    model = tiny_captioner(*mode)
    inputs, _ = tiny_batch(samples=3)
    assert_equal_to_generate(model, model.encode(pixel_values=inputs.pop("pixel_values")), num_beams=3)
    assert_equal_to_generate(model, model.encode(**inputs), num_beams=3)


@every_mode_once
@pytest.mark.parametrize("backend", ["eager", "flex_attention", "flash_attention_2"])
def test_every_backend_finds_the_same_captions(mode, backend, uncompiled_flex):
    model = tiny_captioner(*mode)
    memory, options = model.encode(**tiny_batch(samples=3)[0]), SearchOptions(num_beams=3, max_new_tokens=6)
    expected, _ = flat(search(model, memory, options))
    model.decoder.config._attn_implementation = backend
    assert flat(search(model, memory, options))[0] == expected
    assert model.decoder.config._attn_implementation == backend


def log_probability(model, memory, row):
    """Sum of a caption's log-probabilities, by one pass over all of it."""
    ids = torch.tensor([[1, *row]])
    words = model.decode(ids[:, :-1], memory).logits.log_softmax(-1)
    return words.gather(-1, ids[:, 1:, None]).sum().item()


@pytest.mark.parametrize("name", ["greedy", "several beams", *ALONE])
def test_a_score_is_the_log_probability_over_the_length(name):
    model, options = tiny_captioner(), SearchOptions(max_new_tokens=7, **(SEARCHES | ALONE)[name])
    memory = model.encode(**tiny_batch(samples=3)[0])
    for image, captions in enumerate(search(model, memory, options, seeds=[1, 2, 3])):
        own = memory.select(torch.tensor([image]))
        for ids, score in captions:
            expected = log_probability(model, own, ids) / len(ids) ** options.length_penalty
            assert score == pytest.approx(expected, abs=1e-4)


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


# How it works


class Asked(TorchDispatchMode):
    """Fails when the device is asked for an answer."""

    ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert not any(name in str(function) for name in self.ASKING), function
        return function(*args, **(kwargs or {}))


@every_mode_once
@pytest.mark.parametrize("name", ["greedy", "no repeats", "forbidden", *ALONE])
def test_a_step_never_waits_for_the_device(mode, name, monkeypatch):
    model, options = tiny_captioner(*mode), SearchOptions(max_new_tokens=6, **(SEARCHES | ALONE)[name])
    memory = model.encode(**tiny_batch(samples=3)[0])
    expected, calls = search(model, memory, options), []

    def watched(method):
        def call(*args):
            if len(calls) < 2:  # the first step may prepare tables
                calls.append(method)
                return method(*args)
            calls.append(method)
            with Asked():
                return method(*args)

        return call

    monkeypatch.setattr(CaptionerStepper, "step", watched(CaptionerStepper.step))
    monkeypatch.setattr(CaptionerStepper, "follow", watched(CaptionerStepper.follow))
    strategy = decoding.STRATEGIES[options.strategy]
    monkeypatch.setattr(strategy, "advance", watched(strategy.advance))
    assert search(model, memory, options) == expected
    assert len(calls) > 4


@every_mode_once
def test_keys_and_values_are_written_once_and_never_move(mode, monkeypatch):
    model, seen = tiny_captioner(*mode), []
    memory = model.encode(**tiny_batch(samples=3)[0])
    step = CaptionerStepper.step

    def spy(stepper, tokens):
        before = [layer.keys.clone() for layer in stepper.cache.self_attention_cache.layers]
        end = stepper.cache.get_seq_length()
        logits = step(stepper, tokens)
        for layer, keys in zip(stepper.cache.self_attention_cache.layers, before, strict=True):
            assert torch.equal(layer.keys[:, :, :end], keys[:, :, :end])
        layers = (*stepper.cache.self_attention_cache.layers, *stepper.cache.cross_attention_cache.layers)
        seen.append([layer.keys.data_ptr() for layer in layers if layer.is_initialized])
        assert {len(layer.keys) for layer in layers if layer.is_initialized} == {3}
        return logits

    monkeypatch.setattr(CaptionerStepper, "step", spy)
    search(model, memory, SearchOptions(num_beams=4, max_new_tokens=8, eos_token_id=()))
    assert len(seen) == 7
    assert all(pointers == seen[0] for pointers in seen)


def test_only_the_logits_of_the_last_position_are_computed():
    model, shapes = tiny_captioner(), []
    memory = model.encode(**tiny_batch(samples=2)[0])
    model.lm_head.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    prompt = torch.tensor([[1, 4, 5], [1, 5, 5]])
    search(model, memory, SearchOptions(num_beams=3, max_new_tokens=3, eos_token_id=()), prompt=prompt)
    assert shapes == [(2, 1, 20), (2, 3, 20), (2, 3, 20)]


@pytest.mark.parametrize("name", ["greedy", "early", "diverse", "sampling"])
def test_images_whose_captions_are_finished_leave_the_batch(name, monkeypatch):
    model, rows = tiny_captioner(), []
    memory = model.encode(**tiny_batch(samples=6)[0])
    step = CaptionerStepper.step
    monkeypatch.setattr(
        CaptionerStepper, "step", lambda stepper, tokens: rows.append(len(tokens)) or step(stepper, tokens)
    )
    options = SearchOptions(max_new_tokens=16, eos_token_id=(2, 3, 4, 5), **(SEARCHES | ALONE)[name])
    search(model, memory, options)
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] < 6


def test_a_search_leaves_the_memory_as_it_is():
    model = tiny_captioner()
    memory = model.encode(**tiny_batch(samples=5)[0])
    before = {name: states.clone() for name, states in memory.states.items()}
    search(model, memory, SearchOptions(num_beams=3, eos_token_id=(2, 3, 4, 5)))
    assert all(torch.equal(states, before[name]) for name, states in memory.states.items())


@given(gone=st.lists(st.booleans(), min_size=1, max_size=9))
def test_those_who_leave_are_replaced_from_the_back_and_no_one_else_moves(gone):
    leaving, x = Leaving(gone, torch.device("cpu")), torch.arange(len(gone))
    stay = [row for row, leaves in enumerate(gone) if not leaves]
    assert sorted(leaving.order) == stay
    assert all(leaving.order[row] == row for row in range(leaving.count) if not gone[row])
    assert leaving.select(x).tolist() == leaving.order
    assert leaving.in_place(x).tolist() == leaving.order


@given(
    rows=st.lists(st.lists(st.integers(0, 4), min_size=7, max_size=7), min_size=1, max_size=4), size=st.integers(1, 4)
)
def test_repeated_n_grams_are_those_of_transformers(rows, size):
    ids, scores = torch.tensor(rows), torch.rand(len(rows), 5)
    for length in range(1, 8):
        expected = NoRepeatNGramLogitsProcessor(size)(ids[:, :length], scores)
        assert torch.equal(NoRepeatedNGrams(size)(ids[:, :length], scores), expected)


@given(row=st.lists(st.integers(0, 2), max_size=8), phrase=st.lists(st.integers(0, 2), min_size=1, max_size=3))
def test_the_progress_of_a_phrase_is_what_stands_of_it(row, phrase):
    progress = Phrases([phrase], torch.device("cpu")).progress(torch.tensor([row], dtype=torch.long))
    begun = max(n for n in range(len(phrase)) if n == 0 or row[-n:] == phrase[:n])
    assert progress.item() == (len(phrase) if contains(row, phrase) else begun)


@pytest.mark.parametrize("name", SEARCHES | ALONE)
def test_half_precision_captions_end_and_have_finite_scores(name):
    model = tiny_captioner().to(torch.bfloat16)
    inputs, _ = tiny_batch(samples=2)
    inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
    found = search(model, model.encode(**inputs), SearchOptions(max_new_tokens=6, **(SEARCHES | ALONE)[name]))
    for captions in found:
        assert captions
        for ids, score in captions:
            assert 1 <= len(ids) <= 6
            assert torch.tensor(score).isfinite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_sample": True, "num_beams": 3}, "num_beams=1"),
        ({"num_return_sequences": 2}, "2 captions"),
        ({"num_beams": 5, "num_beam_groups": 2}, "multiple"),
        ({"num_beams": 4, "num_beam_groups": 2, "force_words_ids": [[3]]}, "one group"),
        ({"do_sample": True, "force_words_ids": [[3]]}, "do_sample"),
        ({"max_new_tokens": 2, "force_words_ids": [[3, 4], [5]]}, "3 tokens"),
        ({"max_new_tokens": 0}, "at least 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(SearchError, match=message):
        SearchOptions(**options)


def test_a_caption_longer_than_the_positions_is_refused_before_any_work():
    model = tiny_captioner()
    memory = model.encode(**tiny_batch(samples=1)[0])
    assert len(search(model, memory, SearchOptions(max_new_tokens=24, eos_token_id=()))[0][0].ids) == 24
    with pytest.raises(SearchError, match="lower `max_new_tokens` to 24"):
        search(model, memory, SearchOptions(max_new_tokens=25))
