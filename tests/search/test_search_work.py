"""How the fast search works: what it does once, what it never does, and what it refuses."""

import pytest
import torch
from conftest import tiny_batch
from hypothesis import given
from hypothesis import strategies as st
from searches import ALONE, SEARCHES, every_mode_once, quiet, tiny_captioner
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor

from captioner.search import SearchError, SearchOptions, search
from captioner.search.constraints import NoRepeatedNGrams
from captioner.search.stepping import CaptionerStepper, Compaction
from captioner.search.strategies import STRATEGIES

pytestmark = quiet


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
    strategy = STRATEGIES[options.strategy]
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
    compaction, x = Compaction(gone, torch.device("cpu")), torch.arange(len(gone))
    stay = [row for row, leaves in enumerate(gone) if not leaves]
    assert sorted(compaction.order) == stay
    assert all(compaction.order[row] == row for row in range(compaction.count) if not gone[row])
    assert compaction.select(x).tolist() == compaction.order
    assert compaction.in_place(x).tolist() == compaction.order


@given(
    rows=st.lists(st.lists(st.integers(0, 4), min_size=7, max_size=7), min_size=1, max_size=4), size=st.integers(1, 4)
)
def test_repeated_n_grams_are_those_of_transformers(rows, size):
    ids, scores = torch.tensor(rows), torch.rand(len(rows), 5)
    for length in range(1, 8):
        expected = NoRepeatNGramLogitsProcessor(size)(ids[:, :length], scores)
        assert torch.equal(NoRepeatedNGrams(size)(ids[:, :length], scores), expected)


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
