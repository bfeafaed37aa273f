"""A decoder made from a language model of any family computes what transformers computes, or is refused."""

import copy

import pytest
import torch
from language_models import (
    DECODERS,
    LLAMA_SHAPE,
    SCALED,
    TOKENS,
    captions,
    gated,
    language_model,
    photos,
    save,
    scaled,
)
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, OPTConfig
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding

from captioner import Captioner
from captioner.adopt import PartsError
from captioner.model import DecoderConfig
from captioner.model.layers import RMSNorm
from captioner.model.positions import RotaryPositions
from captioner.search import SearchOptions, search


@pytest.fixture(scope="module", params=DECODERS)
def pair(request, tmp_path_factory):
    """A language model, and a captioner and processor made from its directory."""
    folder = tmp_path_factory.mktemp("decoder")
    return language_model(folder, request.param), *gated(folder)


def test_a_decoder_speaks_as_its_language_model(pair):
    source, captioner, processor = pair
    ids = captions(processor)
    with torch.no_grad():
        torch.testing.assert_close(captioner.decode(ids, None).logits, source(ids).logits, atol=1e-5, rtol=1e-5)


def test_a_new_gate_leaves_the_language_model_as_it_is(pair):
    source, captioner, processor = pair
    inputs = {"pixel_values": photos(), "decoder_input_ids": captions(processor)}
    opened = copy.deepcopy(captioner)
    for block in opened.decoder.blocks:
        torch.nn.init.ones_(block.cross_attention.gates["image"].opening)
    with torch.no_grad():
        logits = captioner(**inputs).logits
        torch.testing.assert_close(logits, source(inputs["decoder_input_ids"]).logits, atol=1e-5, rtol=1e-5)
        assert (opened(**inputs).logits - logits).abs().max() > 1e-3


@pytest.mark.parametrize(("cache", "beams"), [(None, 1), ("static", 1), (None, 4)])
def test_cached_generation_continues_as_the_language_model(pair, cache, beams):
    source, captioner, processor = pair
    ids = captions(processor)
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "num_beams": beams}
    tokens = {"eos_token_id": processor.eos_token_id, "pad_token_id": processor.pad_token_id}
    tokens["suppress_tokens"] = captioner.generation_config.suppress_tokens  # which captioners never say
    expected = source.generate(ids, attention_mask=torch.ones_like(ids), **tokens, **options)
    mask = torch.ones_like(ids)
    given = {"decoder_input_ids": ids, "decoder_attention_mask": mask, "cache_implementation": cache}
    assert torch.equal(captioner.generate(photos(), **given, **options), expected)


@pytest.mark.parametrize("beams", [1, 4])
def test_the_fast_search_finds_what_generate_finds(pair, beams):
    captioner, processor = pair[1:]
    start, options = processor.start_token_id, {"num_beams": beams, "max_new_tokens": 10, "min_new_tokens": 10}
    expected = captioner.generate(photos(), do_sample=False, **options)
    found = search(captioner, captioner.encode(photos()), SearchOptions(**options))
    assert [[start, *captions[0].ids] for captions in found] == expected.tolist()


def test_saving_keeps_a_decoder_as_it_is(pair, tmp_path):
    _, captioner, processor = pair
    captioner.save_pretrained(tmp_path)
    loaded, ids = Captioner.from_pretrained(tmp_path), captions(processor)
    assert torch.equal(loaded.decode(ids, None).logits, captioner.decode(ids, None).logits)


GROUPED = ["llama with wide heads", "qwen2", "qwen3"]


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("backend", ["eager", "flex_attention"])
@pytest.mark.usefixtures("uncompiled_flex")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_backends_agree_on_grouped_heads(name, backend, tmp_path):
    language_model(tmp_path, name)
    captioner, processor = gated(tmp_path)
    ids = captions(processor)
    mask = torch.arange(ids.shape[1]) < torch.tensor([[6], [3], [1]])
    inputs = {"pixel_values": photos(), "decoder_input_ids": ids, "decoder_attention_mask": mask}
    with torch.no_grad():
        expected = captioner(**inputs).logits
        captioner.set_attn_implementation(backend)
        torch.testing.assert_close(captioner(**inputs).logits[mask], expected[mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", GROUPED)
def test_gradient_checkpointing_gives_the_same_gradients(name, tmp_path):
    language_model(tmp_path, name)
    captioner, processor = gated(tmp_path)
    captioner.train()
    ids = captions(processor)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            captioner.activation_checkpointing_enable()
        captioner.zero_grad()
        captioner(pixel_values=photos(), decoder_input_ids=ids, labels=ids).loss.backward()
        gradients.append([p.grad.clone() for p in captioner.parameters() if p.grad is not None])
    assert len(gradients[0]) > 20
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain, atol=1e-6, rtol=1e-5)


def test_the_cache_holds_only_the_heads_of_keys_and_values(tmp_path):
    language_model(tmp_path, "qwen3")
    captioner, processor = gated(tmp_path)
    cache = captioner.decode(captions(processor), None, use_cache=True).cache
    assert cache.self_attention_cache.layers[0].keys.shape == (3, 2, 6, 16)
    assert cache.self_attention_cache.layers[0].values.shape == (3, 2, 6, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rms_norm_rounds_before_it_scales(dtype):
    ours, theirs = RMSNorm(24, eps=1e-6).to(dtype), LlamaRMSNorm(24, eps=1e-6).to(dtype)
    weight = torch.randn(24, generator=torch.Generator().manual_seed(0))
    ours.weight.data.copy_(weight)
    theirs.weight.data.copy_(weight)
    x = torch.randn(50, 24, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert torch.equal(ours(x), theirs(x))


def test_a_half_precision_language_model_becomes_full_precision(tmp_path):
    source = language_model(tmp_path, "qwen3").to(torch.bfloat16)
    source.save_pretrained(tmp_path)
    captioner, _ = gated(tmp_path)
    assert {parameter.dtype for parameter in captioner.parameters()} == {torch.float32}
    assert torch.equal(captioner.lm_head.weight, source.lm_head.weight.float())


def test_a_sliding_window_limits_the_caption_to_what_it_cannot_change(tmp_path):
    source = language_model(tmp_path, "mistral with a window")
    captioner, processor = gated(tmp_path)
    ids = captions(processor, tokens=40)
    with torch.no_grad():
        torch.testing.assert_close(captioner.decode(ids, None).logits, source(ids).logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"a caption may have 40 tokens \(`decoder.max_positions`\), but has 41"):
        captioner.decode(captions(processor, tokens=41), None)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_rotary_angles_that_change_with_the_length_are_refused(family, tmp_path):
    scales = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 16}
    rope = {"rope_type": "longrope", "rope_theta": 500.0, "factor": 4.0, **scales}
    config = AutoConfig.for_model(family, **LLAMA_SHAPE | {"head_dim": 8, "rope_parameters": rope})
    save(tmp_path, AutoModelForCausalLM.from_config(config))
    message = f"`rope_type` of a {family} decoder must be one of default, linear, .*, but is 'longrope'; take a model"
    with pytest.raises(PartsError, match=message):
        gated(tmp_path)


@pytest.mark.parametrize("kind", ["default", *SCALED])
def test_rotary_angles_are_those_of_llama_bit_for_bit(kind):
    shape = LLAMA_SHAPE if kind == "default" else scaled(kind)
    theirs = LlamaRotaryEmbedding(LlamaConfig(**shape))
    config = {"hidden_size": 32, "num_heads": 4, "max_positions": 64, "rope_parameters": shape["rope_parameters"]}
    ours = RotaryPositions(DecoderConfig(positions="rotary", **config))
    x, positions = torch.zeros(1, 64, 32), torch.arange(64)
    for own, their in zip(ours.rotation(x, positions), theirs(x, positions[None]), strict=True):
        assert torch.equal(own, their[0])


def test_a_configuration_with_scaled_angles_is_saved_as_it_is(tmp_path):
    rope = scaled("yarn")["rope_parameters"]
    DecoderConfig(positions="rotary", rope_parameters=rope).save_pretrained(tmp_path)
    loaded = DecoderConfig.from_pretrained(tmp_path)
    assert (loaded.rope_parameters, loaded.rope_theta) == (rope, 500.0)


def test_a_configuration_without_scaled_angles_needs_only_their_base():
    assert DecoderConfig(rope_theta=500.0).rope_parameters is None
    plain = DecoderConfig(rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    assert (plain.rope_parameters, plain.rope_theta) == (None, 500.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 4, "num_key_value_heads": 3}, "multiple of `decoder.num_key_value_heads`, but is 4 with 3"),
        ({"positions": "rotary", "head_dim": 5}, "`decoder.head_dim` must be even, but is 5"),
        ({"hidden_size": 30, "num_heads": 4}, "multiple of `decoder.num_heads`, but is 30 with 4 heads"),
        ({"positions": "sinusoidal"}, "`decoder.positions` must be one of 'learned', 'rotary', but is 'sinusoidal'"),
        ({"feed_forward": "wide"}, "`decoder.feed_forward` must be one of 'plain', 'gated', but is 'wide'"),
        ({"norm": "batch"}, "`decoder.norm` must be one of 'layer', 'rms', but is 'batch'"),
        (
            {"rope_parameters": {"rope_type": "longrope"}},
            "`decoder.rope_parameters.rope_type` must be one of",
        ),
        ({"rope_parameters": {"rope_type": "linear"}}, "`decoder.rope_parameters` .* cannot be used: .*{'factor'}"),
        (
            {"rope_parameters": {"partial_rotary_factor": 0.5}},
            "since whole heads are turned, but is 0.5;",
        ),
    ],
)
def test_impossible_decoders_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DecoderConfig(**options)


def test_a_decoder_of_another_family_is_refused(tmp_path):
    config = OPTConfig(
        vocab_size=TOKENS,
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    save(tmp_path, AutoModelForCausalLM.from_config(config))
    with pytest.raises(PartsError, match=r"`decoder` must be of a family in .*'llama'.*'qwen3'.*, but .* is 'opt'"):
        gated(tmp_path)
