"""Many captions of an image stand in several rows: the same ids, a cost that grows with their number, one memory."""

import pytest
import torch
from conftest import tiny_batch
from searches import every_mode_once, flat, quiet, tiny_captioner

from captioner.search import SearchOptions, loop, search
from captioner.search.stepping import CaptionerStepper

pytestmark = quiet


def samples(count, **options):
    return SearchOptions(do_sample=True, num_return_sequences=count, max_new_tokens=7, **options)


@every_mode_once
@pytest.mark.parametrize("widest", [1, 3, 4])
def test_captions_do_not_depend_on_the_rows_in_which_they_stand(mode, widest, monkeypatch):
    model = tiny_captioner(*mode)
    inputs, _ = tiny_batch(samples=4)
    inputs["context_attention_mask"][2] = 0
    memory, prompt = model.encode(**inputs), torch.tensor([[1, 5, 9]] * 4)
    for options in (samples(10), samples(10, eos_token_id=(2, 3, 4, 5))):
        together = search(model, memory, options, prompt, seeds=[4, 5, 6, 7])
        monkeypatch.setattr(loop, "WIDEST_ROW", widest)
        apart = search(model, memory, options, prompt, seeds=[4, 5, 6, 7])
        assert flat(apart)[0] == flat(together)[0]
        torch.testing.assert_close(flat(apart)[1], flat(together)[1], atol=1e-4, rtol=1e-4)
        twice = search([model, model], [memory, memory], options, prompt, seeds=[4, 5, 6, 7])
        assert flat(twice)[0] == flat(together)[0]
        monkeypatch.undo()


def compared(count, monkeypatch):
    """Pairs of a token and a slot that the last step of a search compares, and rows of the memory's keys."""
    model, seen = tiny_captioner(), []
    memory = model.encode(**tiny_batch(samples=2)[0])
    step = CaptionerStepper.step

    def spy(stepper, tokens):
        logits = step(stepper, tokens)
        own, cross = stepper.cache.self_attention_cache.layers[0], stepper.cache.cross_attention_cache.layers[0]
        seen.append((stepper.past.shape[0] * stepper.width * own.end, len(cross.keys), len(own.keys)))
        return logits

    monkeypatch.setattr(CaptionerStepper, "step", spy)
    search(model, memory, samples(count, eos_token_id=()))
    monkeypatch.undo()
    return seen[-1]


def test_what_many_samples_cost_grows_with_their_number_alone(monkeypatch):
    pairs = {count: compared(count, monkeypatch)[0] for count in (16, 64, 256)}
    assert pairs[64] == 4 * pairs[16]
    assert pairs[256] == 16 * pairs[16]


def test_the_memory_is_never_repeated_for_rows_of_captions(monkeypatch):
    assert [compared(count, monkeypatch)[1:] for count in (1, 16, 17, 64)] == [(2, 2), (2, 2), (2, 4), (2, 8)]


def test_beams_which_follow_each_other_stay_in_one_row(monkeypatch):
    model, rows = tiny_captioner(), []
    memory = model.encode(**tiny_batch(samples=2)[0])
    step = CaptionerStepper.step
    monkeypatch.setattr(CaptionerStepper, "step", lambda own, tokens: rows.append(own.rows) or step(own, tokens))
    search(model, memory, SearchOptions(num_beams=18, num_return_sequences=18, max_new_tokens=5))
    assert {*rows} == {1}
