"""The fast search finds what `generate` finds, and no caption depends on its batch."""

import pytest
import torch
from conftest import tiny_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import (
    ALONE,
    SEARCHES,
    assert_equal_to_generate,
    every_mode,
    every_mode_once,
    flat,
    log_probability,
    quiet,
    reference,
    tiny_captioner,
)

from captioner.model import MODES
from captioner.search import SearchOptions, search

pytestmark = quiet


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


def fitted(options, tokens):
    """The options with so many tokens at most, and no more at least: more would be refused."""
    least = {"min_new_tokens": min(tokens, options["min_new_tokens"])} if "min_new_tokens" in options else {}
    return options | {"max_new_tokens": tokens} | least


@pytest.mark.parametrize("name", SEARCHES)
def test_every_option_gives_what_generate_gives(name):
    model = tiny_captioner()
    memory = model.encode(**tiny_batch(samples=5)[0])
    for tokens in (1, 2, 9):
        assert_equal_to_generate(model, memory, **fitted(SEARCHES[name], tokens))


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
    assert_equal_to_generate(model, memory, **fitted(options, options["max_new_tokens"]))


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


@pytest.mark.parametrize("name", ["greedy", "several beams", *ALONE])
def test_a_score_is_the_log_probability_over_the_length(name):
    model, options = tiny_captioner(), SearchOptions(max_new_tokens=7, **(SEARCHES | ALONE)[name])
    memory = model.encode(**tiny_batch(samples=3)[0])
    for image, captions in enumerate(search(model, memory, options, seeds=[1, 2, 3])):
        own = memory.select(torch.tensor([image]))
        for ids, score in captions:
            expected = log_probability(model, own, ids) / len(ids) ** options.length_penalty
            assert score == pytest.approx(expected, abs=1e-4)
