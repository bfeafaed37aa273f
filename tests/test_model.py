"""The whole captioner: encode, decode, losses, gradients, checkpoints, and what its configuration refuses."""

import copy
import json

import pytest
import torch
from conftest import BERT, DECODER, MODES_AND_NORMS, VIT, stir, tiny_batch, tiny_captioner, tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel

from captioner import Captioner, CaptionerConfig, Memory

every_mode = pytest.mark.parametrize(("conditioning", "fusion", "norm"), MODES_AND_NORMS)
close = {"atol": 1e-5, "rtol": 0}


@every_mode
def test_the_example_runs(conditioning, fusion, norm):
    model = tiny_captioner(conditioning, fusion, norm)
    inputs, ids = tiny_batch(samples=2, captions=3, tokens=7)
    memory = model.encode(**inputs)
    assert {name: tuple(states.shape) for name, states in memory.states.items()} == {
        "image": (2, 5, 32),
        "context": (2, 6, 32),
    }
    logits = model.decode(ids, memory).logits
    assert logits.shape == (6, 7, 20)
    output = model(**inputs, decoder_input_ids=ids, labels=ids)
    assert torch.equal(output.logits, logits)
    assert output.loss.ndim == 0
    assert output.loss.isfinite()
    tokens = model.generate(**inputs, num_beams=5, max_new_tokens=6)
    assert tokens.shape[0] == 2
    assert 1 < tokens.shape[1] <= 7


@every_mode
@pytest.mark.parametrize("absent", ["image", "context"])
def test_an_absent_row_is_like_an_input_that_is_not_given(conditioning, fusion, norm, absent):
    model = tiny_captioner(conditioning, fusion, norm)
    inputs, ids = tiny_batch(samples=3, captions=2)
    there = torch.tensor([False, True, False])
    if absent == "image":
        hidden = inputs | {"image_mask": there}
        fewer = {name: value for name, value in inputs.items() if name != "pixel_values"}
    else:
        hidden = inputs | {"context_attention_mask": inputs["context_attention_mask"] * there[:, None]}
        fewer = {"pixel_values": inputs["pixel_values"]}
    some, none, both = (model(**given, decoder_input_ids=ids).logits for given in (hidden, fewer, inputs))
    torch.testing.assert_close(some[[0, 1, 4, 5]], none[[0, 1, 4, 5]], **close)
    torch.testing.assert_close(some[2:4], both[2:4], **close)
    assert (none - both).abs().max() > 1e-3


@every_mode
def test_padding_of_the_context_changes_nothing(conditioning, fusion, norm):
    model = tiny_captioner(conditioning, fusion, norm)
    inputs, ids = tiny_batch(samples=3, captions=2)
    padded = inputs | {
        "context_input_ids": F.pad(inputs["context_input_ids"], (0, 4), value=7),
        "context_attention_mask": F.pad(inputs["context_attention_mask"], (0, 4)),
    }
    expected, actual = (model(**given, decoder_input_ids=ids).logits for given in (inputs, padded))
    torch.testing.assert_close(actual, expected, **close)


@every_mode
def test_company_in_a_batch_changes_nothing(conditioning, fusion, norm):
    model = tiny_captioner(conditioning, fusion, norm)
    inputs, ids = tiny_batch(samples=4)
    inputs["image_mask"] = torch.tensor([True, False, True, False])
    inputs["context_attention_mask"][2:] = 0
    together = model(**inputs, decoder_input_ids=ids).logits
    for i in range(4):
        alone = model(**{name: value[i : i + 1] for name, value in inputs.items()}, decoder_input_ids=ids[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone.logits, **close)


MODELS = {mode: tiny_captioner(*mode) for mode in MODES_AND_NORMS}


def draw_memory(samples, masks, seed):
    draw = torch.Generator().manual_seed(seed)
    masks = torch.tensor(masks).view(samples, 5)
    return Memory(
        states={
            "image": torch.randn(samples, 3, 32, generator=draw),
            "context": torch.randn(samples, 2, 32, generator=draw),
        },
        masks={"image": masks[:, :3], "context": masks[:, 3:]},
    )


@st.composite
def grouped_cases(draw):
    samples, captions, tokens = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    masks = draw(st.lists(st.booleans(), min_size=5 * samples, max_size=5 * samples))
    ids = torch.randint(
        3, 20, (samples * captions, tokens), generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))
    )
    return captions, ids, draw_memory(samples, masks, draw(st.integers(0, 99)))


@given(mode=st.sampled_from(MODES_AND_NORMS), case=grouped_cases())
@settings(max_examples=80, deadline=None)
def test_the_captions_of_an_image_may_share_its_memory_or_repeat_it(mode, case):
    model, (captions, ids, memory) = MODELS[mode], case
    rows = torch.arange(memory.batch_size).repeat_interleave(captions)
    results = []
    for seen in (memory, memory.select(rows)):
        model.zero_grad()
        logits = model.decode(ids, seen).logits
        logits.square().mean().backward()
        results.append((logits.detach(), [p.grad.clone() for p in model.decoder.parameters() if p.grad is not None]))
    torch.testing.assert_close(results[0][0], results[1][0], **close)
    for shared, repeated in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(shared, repeated, atol=1e-5, rtol=1e-4)


@every_mode
def test_a_later_token_never_changes_earlier_logits(conditioning, fusion, norm):
    model = tiny_captioner(conditioning, fusion, norm)
    inputs, ids = tiny_batch(samples=2, captions=2, tokens=6)
    memory = model.encode(**inputs)
    other = ids.clone()
    other[:, 4] = (ids[:, 4] - 2) % 17 + 3
    before, after = model.decode(ids, memory).logits, model.decode(other, memory).logits
    torch.testing.assert_close(after[:, :4], before[:, :4], **close)
    assert (after[:, 4:] - before[:, 4:]).abs().amax(dim=(1, 2)).min() > 1e-3


@every_mode
def test_padding_of_captions_changes_no_real_position(conditioning, fusion, norm):
    model = tiny_captioner(conditioning, fusion, norm)
    inputs, ids = tiny_batch(samples=2, tokens=5)
    memory = model.encode(**inputs)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    padded = model.decode(ids.masked_fill(mask == 0, 0), memory, mask).logits
    torch.testing.assert_close(padded[0, :3], model.decode(ids, memory).logits[0, :3], **close)
    torch.testing.assert_close(padded[1], model.decode(ids, memory).logits[1], **close)


@every_mode
@pytest.mark.usefixtures("uncompiled_flex")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_a_model_changes_its_attention_backend(conditioning, fusion, norm):
    model = tiny_captioner(conditioning, fusion, norm)
    inputs, ids = tiny_batch(samples=2, captions=2)
    inputs["context_attention_mask"][0] = 0
    with torch.no_grad():
        expected = model(**inputs, decoder_input_ids=ids).logits
        for backend in ("eager", "flex_attention", "sdpa"):
            model.set_attn_implementation(backend)
            assert {part.config._attn_implementation for part in model.decoder.modules() if hasattr(part, "key")} == {
                backend
            }
            torch.testing.assert_close(model(**inputs, decoder_input_ids=ids).logits, expected, **close)


@every_mode
def test_cached_decoding_equals_uncached(conditioning, fusion, norm):
    model = tiny_captioner(conditioning, fusion, norm)
    inputs, ids = tiny_batch(samples=2, captions=3, tokens=6)
    memory = model.encode(**inputs)
    whole, cache, steps = model.decode(ids, memory).logits, None, []
    for part in ids.split([2, 1, 1, 2], dim=1):
        output = model.decode(part, memory, cache=cache, use_cache=True)
        cache = output.cache
        steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, **close)
    assert all(layer.keys.shape[0] == 2 for layer in cache.cross_attention_cache.layers)
    assert all(layer.keys.shape[:3] == (6, 2, 6) for layer in cache.self_attention_cache.layers)
    torch.testing.assert_close(model.decode(ids, memory, logits_to_keep=2).logits, whole[:, -2:], **close)


def test_dropout_is_off_in_evaluation_and_on_in_training():
    model = tiny_captioner(decoder={"dropout": 0.5})
    inputs, ids = tiny_batch()
    twice = [model(**inputs, decoder_input_ids=ids).logits for _ in range(2)]
    assert torch.equal(*twice)
    model.train()
    twice = [model(**inputs, decoder_input_ids=ids).logits for _ in range(2)]
    assert not torch.allclose(*twice)


def test_gated_with_closed_gates_is_a_decoder_without_memory():
    for norm in ("pre", "post"):
        model = tiny_captioner("separate", "gated", norm, gates=0.0)
        inputs, ids = tiny_batch()
        assert torch.equal(model(**inputs, decoder_input_ids=ids).logits, model.decode(ids, None).logits)
    fresh = Captioner(tiny_config("separate", "gated"))
    gates = [value for name, value in fresh.state_dict().items() if name.endswith("opening")]
    assert len(gates) == 4
    assert not any(gate.any() for gate in gates)


@pytest.mark.parametrize("fusion", ["serial", "gated"])
def test_the_order_of_the_configuration_is_used(fusion):
    inputs, ids = tiny_batch()
    model = tiny_captioner("separate", fusion)
    other = tiny_captioner("separate", fusion, modality_order=["context", "image"])
    other.load_state_dict(model.state_dict())
    logits = [captioner(**inputs, decoder_input_ids=ids).logits for captioner in (model, other)]
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    assert list(other.encode(**inputs).states) == ["context", "image"]


def test_the_loss_is_the_mean_over_supervised_tokens():
    model = tiny_captioner()
    inputs, ids = tiny_batch(samples=2, captions=2)
    labels = ids.roll(-1, dims=1)
    labels[0, 2:] = -100
    labels[3] = -100
    output = model(**inputs, decoder_input_ids=ids, labels=labels)
    terms = [-output.logits[n, t].log_softmax(-1)[labels[n, t]] for n, t in (labels != -100).nonzero().tolist()]
    assert len(terms) == 12
    torch.testing.assert_close(output.loss, torch.stack(terms).mean())


def test_decoder_inputs_are_made_from_labels():
    model = tiny_captioner()
    inputs, _ = tiny_batch(samples=2)
    labels = torch.tensor([[5, 6, 7, 2], [8, 2, -100, -100]])
    shifted = torch.tensor([[1, 5, 6, 7], [1, 8, 2, 0]])
    made = model(**inputs, labels=labels)
    given = model(**inputs, labels=labels, decoder_input_ids=shifted)
    assert torch.equal(made.logits, given.logits)
    assert made.loss == given.loss
    with pytest.raises(ValueError, match="give `decoder_input_ids`, `labels` or both"):
        model(**inputs)


def test_a_tuple_is_returned_on_request():
    model = tiny_captioner()
    inputs, ids = tiny_batch()
    loss, logits = model(**inputs, decoder_input_ids=ids, labels=ids, return_dict=False)[:2]
    assert loss.ndim == 0
    assert logits.shape == (3, 5, 20)


def gradients(model, inputs, ids):
    model.zero_grad()
    model(**inputs, decoder_input_ids=ids, labels=ids).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@every_mode
def test_every_parameter_gets_a_gradient(conditioning, fusion, norm):
    model = tiny_captioner(conditioning, fusion, norm).train()
    inputs, ids = tiny_batch(captions=2)
    found = gradients(model, inputs, ids)
    assert [name for name, gradient in found.items() if gradient is None] == []
    # A bias of keys adds the same to every score, so the softmax forgets it.
    dead = [name for name, gradient in found.items() if not gradient.abs().max() > 0 and not name.endswith("key.bias")]
    assert dead == []


@every_mode
def test_gradient_checkpointing_gives_the_same_gradients(conditioning, fusion, norm):
    model = tiny_captioner(conditioning, fusion, norm).train()
    for module in model.encoder.modules():  # BERT's own dropout draws anew; the comparison needs none
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    inputs, ids = tiny_batch(captions=2)
    plain = gradients(model, inputs, ids)
    model.activation_checkpointing_enable()
    assert all(block.gradient_checkpointing for block in model.decoder.blocks)
    for name, gradient in gradients(model, inputs, ids).items():
        torch.testing.assert_close(gradient, plain[name], atol=1e-6, rtol=1e-4, msg=name)


@every_mode
def test_a_tiny_batch_can_be_learnt_by_heart(conditioning, fusion, norm):
    torch.manual_seed(0)
    bert = BERT | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = Captioner(tiny_config(conditioning, fusion, norm, context_encoder=bert)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    inputs, _ = tiny_batch(samples=2)
    inputs["pixel_values"] = inputs["pixel_values"].sign() * torch.tensor([-1.0, 1.0])[:, None, None, None].expand(
        2, 3, 32, 32
    )
    labels = torch.tensor([[5, 6, 7, 2], [8, 9, 2, -100]])
    for _ in range(200):
        loss = model(**inputs, labels=labels).loss
        if loss < 0.04:
            break
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert loss < 0.05
    captions = model.eval().generate(**inputs, max_new_tokens=5)
    assert captions.tolist() == [[1, 5, 6, 7, 2], [1, 8, 9, 2, 0]]


def same_after_a_round_trip(model, directory, inputs, ids, **options):
    model.save_pretrained(directory)
    loaded = Captioner.from_pretrained(directory, **options).eval()
    # Weights lie in the file as it packs them; some convolutions round differently by address, a copy's are aligned.
    loaded = copy.deepcopy(loaded)
    with torch.no_grad():
        expected, actual = (m(**inputs, decoder_input_ids=ids).logits for m in (model, loaded))
    assert torch.equal(actual, expected)
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    return loaded


@every_mode
def test_a_checkpoint_gives_the_same_logits_to_the_bit(conditioning, fusion, norm, tmp_path):
    model = tiny_captioner(conditioning, fusion, norm)
    loaded = same_after_a_round_trip(model, tmp_path, *tiny_batch())
    assert (loaded.config.conditioning, loaded.config.fusion) == (conditioning, fusion)
    assert loaded.config.decoder.norm_position == norm
    assert loaded.lm_head.weight is loaded.decoder.token_embedding.weight


BACKBONES = {
    "vit with registers": {
        "name": "vit_medium_patch16_reg4_gap_256",
        "image_size": 32,
        "embed_dim": 32,
        "depth": 1,
        "num_heads": 2,
    },
    "vit with a stem": VIT | {"stem": "convolutional"},
    "swin": {
        "name": "swin_tiny_patch4_window7_224",
        "image_size": 32,
        "embed_dim": 8,
        "depths": [2, 1],
        "num_heads": [1, 2],
        "window_size": 4,
    },
    "swinv2": {
        "name": "swinv2_tiny_window8_256",
        "image_size": 32,
        "embed_dim": 8,
        "depths": [2, 1],
        "num_heads": [1, 2],
        "window_size": 4,
    },
    "convnext": {"name": "convnext_atto", "image_size": 32, "depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]},
    "resnet": {"name": "resnet10t", "image_size": 32, "channels": [8, 8, 16, 16]},
    "eva02": {"name": "eva02_tiny_patch14_224", "image_size": 28, "embed_dim": 32, "depth": 1, "num_heads": 2},
    "beit": {"name": "beit_base_patch16_224", "image_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2},
    "efficientnet": {"name": "test_efficientnet", "image_size": 32},
}


@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=list(BACKBONES))
def test_a_checkpoint_keeps_every_backbone_to_the_bit(backbone, tmp_path):
    model = tiny_captioner(image_encoder=backbone)
    stir(model.encoder)
    inputs, ids = tiny_batch()
    size = backbone["image_size"]
    inputs["pixel_values"] = inputs["pixel_values"][:, :, :size, :size]
    loaded = same_after_a_round_trip(model, tmp_path, inputs, ids)
    buffers = dict(model.named_buffers())
    for name, buffer in loaded.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


CONTEXTS = {
    "t5": {"model_type": "t5", "vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2},
    "roberta": BERT | {"model_type": "roberta"},
    "distilbert": {
        "model_type": "distilbert",
        "vocab_size": 30,
        "dim": 16,
        "hidden_dim": 16,
        "n_layers": 1,
        "n_heads": 2,
    },
}


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=list(CONTEXTS))
def test_a_checkpoint_keeps_every_context_encoder_to_the_bit(context, tmp_path):
    same_after_a_round_trip(tiny_captioner(context_encoder=context), tmp_path, *tiny_batch())


def test_only_safetensors_are_written_and_tied_weights_once(tmp_path):
    tiny_captioner().save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "generation_config.json", "model.safetensors"}
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        keys = set(file.keys())
    assert "decoder.token_embedding.weight" in keys
    assert "lm_head.weight" not in keys
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "captioner"


def test_untied_weights_stay_apart(tmp_path):
    model = tiny_captioner(decoder={"tie_word_embeddings": False, "head_bias": True})
    loaded = same_after_a_round_trip(model, tmp_path, *tiny_batch())
    assert not torch.equal(loaded.lm_head.weight, loaded.decoder.token_embedding.weight)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_decoder_with_every_part_of_berts_goes_round_too(norm, tmp_path):
    parts = {"embedding_norm": True, "head_transform": True, "head_bias": True, "activation": "relu"}
    same_after_a_round_trip(tiny_captioner("concatenated", None, norm, decoder=parts), tmp_path, *tiny_batch())


def test_half_precision_checkpoints_load_as_they_were(tmp_path):
    tiny_captioner().to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = Captioner.from_pretrained(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    inputs, ids = tiny_batch()
    inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
    assert loaded(**inputs, decoder_input_ids=ids, labels=ids).loss.isfinite()
    wide = Captioner.from_pretrained(tmp_path, dtype=torch.float32)
    assert {parameter.dtype for parameter in wide.parameters()} == {torch.float32}


def test_auto_classes_load_a_checkpoint(tmp_path):
    tiny_captioner().save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is CaptionerConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is Captioner


def test_a_configuration_survives_json(tmp_path):
    config = tiny_config("separate", None, modality_order=["context", "image"], decoder_start_token_id=3)
    config.save_pretrained(tmp_path)
    loaded = CaptionerConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.fusion == "serial"
    assert loaded.context_encoder.hidden_size == 24
    assert loaded.modalities == ["context", "image"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conditioning": "both"}, "`conditioning` must be one of 'concatenated', 'separate', but is 'both'"),
        (
            {"conditioning": "separate", "fusion": "stacked"},
            r"`fusion \(with conditioning='separate'\)` must be one of 'serial', .*'joint', but is 'stacked'",
        ),
        (
            {"fusion": "serial"},
            r"`fusion \(with conditioning='concatenated'\)` must be one of null, but is 'serial'",
        ),
        (
            {"modality_order": ["image"]},
            r"`modality_order` must list each of \['context', 'image'\] once, but is \['image'\]",
        ),
        ({"modality_order": ["image", "image"]}, "`modality_order` must list each"),
        (
            {"decoder": {"hidden_size": 30, "num_heads": 4}},
            "`decoder.hidden_size` must be a multiple of `decoder.num_heads`, but is 30 with 4 heads",
        ),
        (
            {"norm_position": "middle"},
            "`decoder.norm_position` must be one of 'pre', 'post', but is 'middle'",
        ),
        (
            {"image_encoder": {"image_size": 32}},
            r"`image_encoder` must have the key 'name' \(a timm model\), but has \['image_size'\]",
        ),
        (
            {"image_encoder": None, "context_encoder": None},
            "a captioner needs one of `image_encoder`, `context_encoder` and `encoders`, but has none",
        ),
    ],
)
def test_a_wrong_configuration_says_what_to_change(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**options)


def test_too_long_or_too_many_captions_say_what_to_change():
    model = tiny_captioner()
    inputs, _ = tiny_batch(samples=2)
    memory = model.encode(**inputs)
    limit = DECODER["max_positions"]
    with pytest.raises(ValueError, match=rf"a caption may have {limit} tokens .* but has {limit + 1}; shorten it"):
        model.decode(torch.ones(2, limit + 1, dtype=torch.long), memory)
    with pytest.raises(ValueError, match="caption rows must be a multiple of the memory's 2 samples, but are 3"):
        model.decode(torch.ones(3, 2, dtype=torch.long), memory)
