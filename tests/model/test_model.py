"""The whole captioner in one pass: what changes its logits and what never does, its losses and its gradients."""

import pytest
import torch
from conftest import BERT, DECODER, MODES_AND_NORMS, every_mode, tiny_batch, tiny_captioner, tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from captioner import Captioner, Memory

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


def test_too_long_or_too_many_captions_say_what_to_change():
    model = tiny_captioner()
    inputs, _ = tiny_batch(samples=2)
    memory = model.encode(**inputs)
    limit = DECODER["max_positions"]
    with pytest.raises(ValueError, match=rf"a caption may have {limit} tokens .* but has {limit + 1}; shorten it"):
        model.decode(torch.ones(2, limit + 1, dtype=torch.long), memory)
    with pytest.raises(ValueError, match="caption rows must be a multiple of the memory's 2 samples, but are 3"):
        model.decode(torch.ones(3, 2, dtype=torch.long), memory)
