"""`generate`: the same captions whatever the batch, the cache, the beams beside them and the options in use."""

from itertools import pairwise

import pytest
import torch
from conftest import MODES_AND_NORMS, tiny_batch
from conftest import tiny_captioner as tied_captioner
from torch.nn import functional as F
from transformers import LogitsProcessor
from transformers.generation.streamers import BaseStreamer

from captioner.model import MODES, SharedMemoryCache

LENGTH = 6
every_mode = pytest.mark.parametrize(("conditioning", "fusion", "norm"), MODES_AND_NORMS)
every_mode_once = pytest.mark.parametrize("mode", MODES, ids=str)


class Ban(LogitsProcessor):
    """Forbids one token."""

    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        scores[:, self.token] = -torch.inf
        return scores


SEARCHES = {
    "greedy": {},
    "beam": {"num_beams": 3},
    "several beams": {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.3},
    "no repeats": {"num_beams": 2, "no_repeat_ngram_size": 2, "repetition_penalty": 1.2},
    "long": {"num_beams": 2, "min_new_tokens": 5, "length_penalty": 2.0, "early_stopping": True},
    "processor": {"logits_processor": [Ban(7)]},
    "sampling": {"do_sample": True, "num_return_sequences": 3, "top_k": 10, "temperature": 1.3},
    "beam sampling": {"do_sample": True, "num_beams": 3},
}
MAIN = ("greedy", "several beams", "sampling")  # in every mode; the other searches, in two of them
MODE_AND_SEARCH = [(mode, name) for mode in MODES for name in MAIN]
MODE_AND_SEARCH += [(mode, name) for mode in (("concatenated", None), ("separate", "serial")) for name in SEARCHES]
every_search = pytest.mark.parametrize(("mode", "search"), list(dict.fromkeys(MODE_AND_SEARCH)), ids=str)


def tiny_captioner(*mode):
    """With a vocabulary head of its own: a tied one mostly repeats the last word."""
    return tied_captioner(*mode, decoder={"tie_word_embeddings": False, "initializer_range": 0.3})


def caption(model, inputs, **search):
    """Ids (N, 1 + LENGTH), padded with 0, from the same seed every time."""
    torch.manual_seed(0)
    ids = model.generate(**inputs, max_new_tokens=LENGTH, **search)
    ended = (ids == 2).cumsum(1) - (ids == 2).long() > 0  # transformers fills beams with EOS where the pad id is 0
    assert torch.isin(ids[ended], torch.tensor([0, 2])).all()
    return F.pad(ids.masked_fill(ended, 0), (0, 1 + LENGTH - ids.shape[1]))


def test_these_captioners_have_something_to_say():
    inputs, _ = tiny_batch(samples=6)
    for mode in MODES_AND_NORMS:
        captions = caption(tiny_captioner(*mode), inputs)
        assert len(captions.unique(dim=0)) > 2, mode
        assert len(captions.unique()) > 4, mode


@every_mode
@pytest.mark.parametrize("search", ["greedy", "several beams"])
def test_company_in_a_batch_never_changes_a_caption(conditioning, fusion, norm, search):
    model, search = tiny_captioner(conditioning, fusion, norm), SEARCHES[search]
    inputs, _ = tiny_batch(samples=4)
    inputs["image_mask"] = torch.tensor([True, True, False, True])
    inputs["context_attention_mask"][3] = 0
    together = caption(model, inputs, **search)
    alone = [caption(model, {name: value[i : i + 1] for name, value in inputs.items()}, **search) for i in range(4)]
    assert torch.equal(together, torch.cat(alone))


@every_mode
def test_padding_of_the_context_never_changes_a_caption(conditioning, fusion, norm):
    model = tiny_captioner(conditioning, fusion, norm)
    inputs, _ = tiny_batch(samples=3)
    padded = inputs | {
        "context_input_ids": F.pad(inputs["context_input_ids"], (0, 5), value=9),
        "context_attention_mask": F.pad(inputs["context_attention_mask"], (0, 5)),
    }
    assert torch.equal(caption(model, inputs, num_beams=3), caption(model, padded, num_beams=3))


@every_mode
def test_an_absent_input_gives_the_caption_of_an_input_that_is_not_given(conditioning, fusion, norm):
    model = tiny_captioner(conditioning, fusion, norm)
    inputs, _ = tiny_batch(samples=3)
    images = {"pixel_values": inputs["pixel_values"]}
    contexts = {name: value for name, value in inputs.items() if name != "pixel_values"}
    no_context = inputs | {"context_attention_mask": torch.zeros(3, 6)}
    no_image = inputs | {"image_mask": torch.zeros(3, dtype=torch.bool)}
    assert torch.equal(caption(model, images), caption(model, no_context))
    assert torch.equal(caption(model, contexts), caption(model, no_image))


@every_search
def test_caches_change_no_caption(mode, search):
    model, search = tiny_captioner(*mode), SEARCHES[search]
    inputs, _ = tiny_batch(samples=3)
    cached = caption(model, inputs, **search)
    assert torch.equal(caption(model, inputs, use_cache=False, **search), cached)
    assert torch.equal(caption(model, inputs, cache_implementation="static", **search), cached)


@every_mode_once
def test_eager_attention_gives_the_same_captions(mode):
    model, search = tiny_captioner(*mode), SEARCHES["several beams"]
    inputs, _ = tiny_batch(samples=3)
    fast = caption(model, inputs, **search)
    model.set_attn_implementation("eager")
    for options in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
        assert torch.equal(caption(model, inputs, **search, **options), fast)


@every_mode_once
@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}], ids=["dynamic", "static"])
def test_beams_share_one_row_of_the_memory_that_never_moves(mode, options, monkeypatch):
    model, seen = tiny_captioner(*mode), []
    reorder = SharedMemoryCache.reorder_cache

    def spy(cache, beam_idx):
        before = [layer.keys for layer in cache.cross_attention_cache.layers]
        reorder(cache, beam_idx)
        after = [layer.keys for layer in cache.cross_attention_cache.layers]
        assert all(a is b for a, b in zip(after, before, strict=True))
        seen.append(({keys.shape[0] for keys in after}, cache.self_attention_cache.layers[0].keys.shape[0]))

    monkeypatch.setattr(SharedMemoryCache, "reorder_cache", spy)
    caption(model, tiny_batch(samples=3)[0], num_beams=4, min_new_tokens=3, **options)
    assert len(seen) >= 3
    assert all(rows == ({3}, 12) for rows in seen)


@every_mode_once
def test_the_encoders_run_once_and_the_memory_may_be_given(mode):
    model, calls = tiny_captioner(*mode), []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    inputs, _ = tiny_batch(samples=3)
    expected = caption(model, inputs, num_beams=3)
    assert len(calls) == 1
    memory = model.encode(**inputs)
    assert torch.equal(caption(model, {"encoder_outputs": memory}, num_beams=3), expected)
    assert memory.batch_size == 3
    assert len(calls) == 2


@every_mode_once
def test_greedy_is_the_likeliest_token_of_every_step(mode):
    model = tiny_captioner(*mode)
    inputs, _ = tiny_batch(samples=3)
    memory, ids = model.encode(**inputs), torch.ones(3, 1, dtype=torch.long)
    for _ in range(LENGTH):
        best = model.decode(ids, memory).logits[:, -1].argmax(-1)
        ended = (ids == 2).any(dim=1)
        ids = torch.cat([ids, best.masked_fill(ended, 0)[:, None]], dim=1)
    assert torch.equal(caption(model, inputs), ids)


@every_mode_once
def test_a_search_scores_what_it_returns(mode):
    model = tiny_captioner(*mode)
    inputs, _ = tiny_batch(samples=2)
    options = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 5, "length_penalty": 0.0}
    found = model.generate(**inputs, **options, return_dict_in_generate=True, output_scores=True)
    ids = found.sequences
    logits = model.decode(ids[:, :-1], model.encode(**inputs)).logits
    words = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    after_end = ((ids[:, 1:] == 2).cumsum(1) - (ids[:, 1:] == 2).long()) > 0
    torch.testing.assert_close(words.masked_fill(after_end, 0).sum(1), found.sequences_scores, atol=1e-4, rtol=0)


def test_options_do_what_they_say():
    model = tiny_captioner()
    inputs, _ = tiny_batch(samples=6)
    favourite = caption(model, inputs)[0, 1].item()
    assert not (caption(model, inputs, logits_processor=[Ban(favourite)]) == favourite).any()
    assert not (caption(model, inputs, num_beams=3, min_new_tokens=5)[:, :6] == 2).any()
    for row in caption(model, inputs, **SEARCHES["no repeats"]).tolist():
        words = row[: row.index(2)] if 2 in row else row
        pairs = list(pairwise(words))
        assert len(pairs) == len(set(pairs))
    sampled = caption(model, inputs, **SEARCHES["sampling"])
    assert sampled.shape[0] == 18
    assert torch.equal(sampled, caption(model, inputs, **SEARCHES["sampling"]))
    assert len({tuple(row) for row in sampled[:3].tolist()}) > 1


@every_mode_once
def test_a_prefix_of_the_caption_is_continued(mode):
    model = tiny_captioner(*mode)
    inputs, _ = tiny_batch(samples=3)
    whole = caption(model, inputs, min_new_tokens=LENGTH)
    options = {"max_new_tokens": LENGTH - 2, "min_new_tokens": LENGTH - 2}
    assert torch.equal(model.generate(**inputs, decoder_input_ids=whole[:, :3], **options), whole)


class Recorder(BaseStreamer):
    """Keeps what a streamer is given."""

    def __init__(self):
        self.tokens, self.ended = [], False

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def end(self):
        self.ended = True


@every_mode_once
def test_greedy_captions_are_streamed_token_by_token(mode):
    model, recorder = tiny_captioner(*mode), Recorder()
    inputs, _ = tiny_batch(samples=1)
    ids = model.generate(**inputs, max_new_tokens=LENGTH, streamer=recorder)
    assert recorder.tokens == ids[0].tolist()
    assert recorder.ended


def test_a_misspelt_option_is_refused():
    with pytest.raises(ValueError, match="num_beems"):
        caption(tiny_captioner(), tiny_batch()[0], num_beems=3)


def test_half_precision_captions_are_finite_and_end():
    inputs, _ = tiny_batch(samples=2)
    inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
    inputs["context_attention_mask"][0] = 0
    for mode in MODES:
        ids = caption(tiny_captioner(*mode).to(torch.bfloat16), inputs, num_beams=3)
        assert ids.shape == (2, 1 + LENGTH)
