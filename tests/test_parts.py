"""Captioners from pretrained parts: the language model of every family against transformers, and what joins them."""

import copy

import pytest
import torch
from conftest import BERT, VIT, stir
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForTextEncoding,
    BertConfig,
    CLIPConfig,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    T5Config,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from captioner import Captioner, from_parts
from captioner.adopt import assemble, load
from captioner.attention import MODES
from captioner.configuration import DecoderConfig
from captioner.decoding import SearchOptions, search
from captioner.norms import RMSNorm
from captioner.parts import PartsError, fill
from captioner.settings import DataSettings, ModelSettings
from captioner.vocabulary import train_tokenizer

TEXTS = ["a small red dog left of the big blue cat", "two old boats under one bridge"]
TOKENS = 30
BERT_SHAPE = {
    "vocab_size": TOKENS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
LLAMA_SHAPE = BERT_SHAPE | {"num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
DECODERS = {
    "gpt2": GPT2Config(vocab_size=TOKENS, n_embd=32, n_layer=2, n_head=4, n_inner=48, n_positions=64),
    "bert": BertConfig(**BERT_SHAPE, is_decoder=True),
    "roberta": RobertaConfig(**BERT_SHAPE, is_decoder=True, pad_token_id=0),
    "llama": LlamaConfig(**LLAMA_SHAPE),
    "llama with one key per query": LlamaConfig(**LLAMA_SHAPE | {"num_key_value_heads": None}),
    "llama with one key for all queries": LlamaConfig(**LLAMA_SHAPE | {"num_key_value_heads": 1}),
    "llama with biased attention": LlamaConfig(**LLAMA_SHAPE, attention_bias=True),
    "llama with biased feed-forward": LlamaConfig(**LLAMA_SHAPE, mlp_bias=True),
    "llama with wide heads": LlamaConfig(**LLAMA_SHAPE, head_dim=12),
    "smollm2": LlamaConfig(**LLAMA_SHAPE, tie_word_embeddings=True, rms_norm_eps=1e-5),
    "mistral": MistralConfig(**LLAMA_SHAPE, sliding_window=None),
    "mistral with narrow heads": MistralConfig(**LLAMA_SHAPE, sliding_window=None, head_dim=6),
    "mistral with a window": MistralConfig(**LLAMA_SHAPE, sliding_window=40),
    "qwen2": Qwen2Config(**LLAMA_SHAPE),
    "qwen2.5": Qwen2Config(**LLAMA_SHAPE, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**LLAMA_SHAPE, head_dim=16),
    "qwen3 with biased attention": Qwen3Config(**LLAMA_SHAPE, head_dim=8, attention_bias=True),
    "qwen3 tied": Qwen3Config(**LLAMA_SHAPE, head_dim=16, tie_word_embeddings=True),
}


def save(folder, model, seed=0):
    """A model with no weight at 0 or 1, and a tokenizer, as a directory."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.1 if parameter.ndim == 1 else 0.0, 0.4)
    model.tie_weights()
    model.save_pretrained(folder)
    train_tokenizer(TEXTS, kind="word", vocab_size=TOKENS, min_frequency=1).save_pretrained(folder)
    return model.eval()


def language_model(folder, name):
    return save(folder, AutoModelForCausalLM.from_config(DECODERS[name]))


def gated(folder, **options):
    """A captioner with a new image encoder and gated cross-attention, and its processor."""
    torch.manual_seed(1)
    options = {"image_encoder": VIT, "conditioning": "separate", "fusion": "gated", "max_context_length": 12} | options
    captioner, processor = from_parts(decoder=str(folder), **options)
    return captioner, processor


def captions(processor, rows=3, tokens=6):
    ids = torch.randint(4, 20, (rows, tokens), generator=torch.Generator().manual_seed(2))
    ids[:, 0] = processor.start_token_id
    return ids


def photos(rows=3):
    return torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(3))


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
    ends = {"eos_token_id": processor.eos_token_id, "pad_token_id": processor.pad_token_id}
    expected = source.generate(ids, attention_mask=torch.ones_like(ids), **ends, **options)
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
def test_scaled_rotary_angles_are_refused(family, tmp_path):
    rope = {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}
    config = AutoConfig.for_model(family, **LLAMA_SHAPE | {"rope_parameters": rope})
    save(tmp_path, AutoModelForCausalLM.from_config(config))
    with pytest.raises(PartsError, match=f"`rope_type` of a {family} decoder must be 'default', but is 'linear'"):
        gated(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 4, "num_key_value_heads": 3}, "multiple of `decoder.num_key_value_heads`, but is 4 with 3"),
        ({"positions": "rotary", "head_dim": 5}, "`decoder.head_dim` must be even, but is 5"),
        ({"hidden_size": 30, "num_heads": 4}, "multiple of `decoder.num_heads`, but is 30 with 4 heads"),
        ({"positions": "sinusoidal"}, "`decoder.positions` must be one of 'learned', 'rotary', but is 'sinusoidal'"),
        ({"feed_forward": "wide"}, "`decoder.feed_forward` must be one of 'plain', 'gated', but is 'wide'"),
        ({"norm": "batch"}, "`decoder.norm` must be one of 'layer', 'rms', but is 'batch'"),
    ],
)
def test_impossible_decoders_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DecoderConfig(**options)


CLIP_SHAPE = {key: value for key, value in BERT_SHAPE.items() if key != "vocab_size"} | {"projection_dim": 8}
CONTEXT_ENCODERS = {
    "bert": BertConfig(**BERT_SHAPE | {"hidden_size": 24}),
    "distilbert": DistilBertConfig(
        vocab_size=TOKENS, dim=24, n_layers=1, n_heads=2, hidden_dim=24, max_position_embeddings=16
    ),
    "t5": T5Config(vocab_size=TOKENS, d_model=24, d_kv=12, d_ff=24, num_layers=1, num_heads=2),
    "clip": CLIPConfig(
        text_config=CLIP_SHAPE | {"vocab_size": TOKENS},
        vision_config=CLIP_SHAPE | {"image_size": 32, "patch_size": 16},
        projection_dim=8,
    ),
}


@pytest.mark.parametrize("name", CONTEXT_ENCODERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_context_is_read_as_by_its_text_encoder(name, dtype, tmp_path):
    language_model(tmp_path / "decoder", "gpt2")
    save(tmp_path / "context", AutoModel.from_config(CONTEXT_ENCODERS[name]).to(dtype))
    captioner, processor = gated(tmp_path / "decoder", context_encoder=str(tmp_path / "context"))
    inputs = processor(context=["a red dog", "the big blue cat"])
    ids, mask = inputs["context_input_ids"], inputs["context_attention_mask"]
    config = AutoConfig.from_pretrained(tmp_path / "context").get_text_config()
    auto = AutoModelForTextEncoding.from_pretrained(tmp_path / "context", config=config, dtype=torch.float32)
    states = auto.eval()(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(captioner.encoder.context(ids, mask)[mask], states[mask], atol=1e-5, rtol=1e-5)
    assert {parameter.dtype for parameter in captioner.parameters()} == {torch.float32}


def test_an_image_is_seen_as_by_its_backbone(tmp_path):
    import timm
    from safetensors.torch import save_file

    options = {key: value for key, value in VIT.items() if key not in ("name", "image_size")}
    backbone = timm.create_model(VIT["name"], img_size=32, num_classes=5, **options).eval()
    save_file(backbone.state_dict(), tmp_path / "vit.safetensors")
    language_model(tmp_path / "decoder", "qwen3")
    image_encoder = VIT | {"pretrained": str(tmp_path / "vit.safetensors")}
    captioner, processor = gated(tmp_path / "decoder", image_encoder=image_encoder)
    assert torch.equal(captioner.encoder.image(photos()), backbone.forward_features(photos()))
    assert "pretrained" not in captioner.config.image_encoder
    assert processor.image_settings.height == 32


def test_the_processor_feeds_the_captioner(tmp_path):
    language_model(tmp_path / "decoder", "qwen3")
    save(tmp_path / "context", AutoModel.from_config(CONTEXT_ENCODERS["bert"]))
    captioner, processor = gated(tmp_path / "decoder", context_encoder=str(tmp_path / "context"))
    inputs = processor(images=torch.rand(3, 40, 40), context="a red dog", captions="the big blue cat")
    assert captioner(**inputs).loss.isfinite()
    assert captioner.config.decoder_start_token_id == processor.start_token_id
    assert processor.batch_decode(inputs["labels"]) == ["the big blue cat"]


@pytest.mark.parametrize(("conditioning", "fusion"), MODES)
def test_every_mode_reads_through_heads_of_any_width(conditioning, fusion, tmp_path):
    language_model(tmp_path, "llama with wide heads")
    captioner, processor = gated(tmp_path, conditioning=conditioning, fusion=fusion, context_encoder=BERT)
    for parameter in stir(captioner.decoder).parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    inputs = processor(context=["a red dog", "the blue cat", "two boats"]) | {"decoder_input_ids": captions(processor)}
    with torch.no_grad():
        seen, other = (captioner(pixel_values=pixels, **inputs).logits for pixels in (photos(), -photos()))
    assert (seen - other).abs().amax(dim=(1, 2)).min() > 1e-3


def test_the_classmethod_gives_the_captioner_alone(tmp_path):
    language_model(tmp_path, "llama")
    captioner = Captioner.from_parts(VIT, decoder=str(tmp_path), conditioning="separate", fusion="gated")
    both, processor = from_parts(VIT, decoder=str(tmp_path), conditioning="separate", fusion="gated")
    ids = captions(processor)
    assert torch.equal(captioner.decode(ids, None).logits, both.decode(ids, None).logits)


def test_the_settings_of_a_run_name_parts_too(tmp_path):
    source = language_model(tmp_path, "smollm2")
    settings = ModelSettings(image_encoder=VIT, decoder=str(tmp_path), dropout=0.25)
    captioner, processor = assemble(settings, DataSettings(max_caption_length=17), list)
    assert torch.equal(captioner.decoder.token_embedding.weight, source.model.embed_tokens.weight)
    assert (captioner.config.decoder.dropout, processor.max_caption_length) == (0.25, 17)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"decoder": "nowhere/nothing"}, "cannot load the pretrained part 'nowhere/nothing': give a local directory"),
        ({"decoder": {"hidden_size": 32}}, "a new decoder knows no words: give `tokenizer`"),
        (
            {"image_encoder": VIT | {"pretrained": "no.file"}},
            "`image_encoder.pretrained` is 'no.file', which is no file",
        ),
        ({"image_encoder": {"name": "vit_nope"}}, "timm has no model 'vit_nope'"),
        ({"image_encoder": "timm/test_vit.r160_in1k"}, "cannot load the weights of 'test_vit.r160_in1k': the Hub must"),
        ({"fusion": "mixed"}, "`fusion .*` must be one of"),
        ({"max_caption_length": 70}, "`decoder.max_positions` is 64, but `max_caption_length` needs 70"),
    ],
)
def test_parts_that_cannot_be_had_are_explained(parts, message, tmp_path):
    language_model(tmp_path, "llama")
    options = {"image_encoder": VIT, "decoder": str(tmp_path), "conditioning": "separate", "fusion": "gated"}
    with pytest.raises(PartsError, match=message):
        from_parts(**options | parts)


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


def test_weights_without_a_place_are_refused(tmp_path):
    language_model(tmp_path, "llama")
    captioner, _ = gated(tmp_path)
    with pytest.raises(PartsError, match=r"weights without a place in the captioner: \['decoder.nose'\]"):
        fill(captioner, {"decoder.nose": torch.zeros(1)})


def test_a_captioner_lends_its_image_encoder_to_a_new_one(tmp_path):
    lender, _ = load("scenes-separate")
    shape = lender.config.image_encoder
    tokenizer = train_tokenizer(["a red circle"], kind="word", min_frequency=1)
    decoder = {"hidden_size": 32, "num_layers": 1, "num_heads": 2}
    lender.save_pretrained(tmp_path)
    for name in ("scenes-separate", str(tmp_path)):
        captioner, _ = from_parts(shape | {"pretrained": name}, decoder=decoder, tokenizer=tokenizer)
        for key, weight in lender.encoder.image.backbone.state_dict().items():
            assert torch.equal(captioner.encoder.image.backbone.state_dict()[key], weight)
    with pytest.raises(PartsError, match="has no image encoder of this shape; set `model.image_encoder` as its"):
        from_parts(shape | {"depth": 2, "pretrained": str(tmp_path)}, decoder=decoder, tokenizer=tokenizer)
