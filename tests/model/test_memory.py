"""A memory of several modalities in one row: kept while its tensors are the same, never longer."""

import pytest
import torch
from conftest import tiny_batch, tiny_captioner

from captioner import Memory

ORDER = ("image", "context")


def memory(samples=2, width=4):
    draw = torch.Generator().manual_seed(0)
    states = {name: torch.randn(samples, size, width, generator=draw) for name, size in (("image", 3), ("context", 2))}
    return Memory(states=states, masks={name: own[..., 0] > -1 for name, own in states.items()})


def gradients(model, seen, ids):
    model.zero_grad()
    model.decode(ids, seen).logits.square().mean().backward()
    return {name: own.grad.clone() for name, own in model.encoder.named_parameters() if own.grad is not None}


def test_every_layer_gets_the_same_tensors():
    seen = memory()
    first, second = seen.joined(ORDER), seen.joined(ORDER)
    assert [one is other for one, other in zip(first, second, strict=True)] == [True, True]
    assert torch.equal(first[0], torch.cat([seen.states[name] for name in ORDER], dim=1))
    assert torch.equal(first[1], torch.cat([seen.masks[name] for name in ORDER], dim=1))


@pytest.mark.parametrize("what", ["states", "masks"])
@pytest.mark.parametrize("name", ORDER)
def test_a_tensor_that_is_replaced_counts_at_once(what, name):
    seen = memory()
    seen.joined(ORDER)
    tensors = getattr(seen, what)
    tensors[name] = torch.zeros_like(tensors[name])
    fresh = Memory(states=dict(seen.states), masks=dict(seen.masks))
    assert all(map(torch.equal, seen.joined(ORDER), fresh.joined(ORDER)))


def test_another_order_and_a_modality_that_leaves_count_at_once():
    seen = memory()
    there, back = seen.joined(ORDER), seen.joined(ORDER[::-1])
    assert torch.equal(back[0], torch.cat([seen.states["context"], seen.states["image"]], dim=1))
    assert torch.equal(seen.joined(ORDER)[0], there[0])
    del seen.states["image"], seen.masks["image"]
    assert torch.equal(seen.joined(ORDER)[0], seen.states["context"])


@pytest.mark.parametrize("mode", [("concatenated",), ("separate", "serial")], ids=lambda mode: mode[-1])
def test_a_mask_replaced_after_a_step_changes_the_next_logits(mode):
    model = tiny_captioner(*mode)
    inputs, ids = tiny_batch()
    with torch.no_grad():
        seen = model.encode(**inputs)
        model.decode(ids, seen)
        seen.masks["image"] = torch.zeros_like(seen.masks["image"])
        fresh = Memory(states=seen.states, masks=seen.masks)
        assert torch.equal(model.decode(ids, seen).logits, model.decode(ids, fresh).logits)


def test_a_loss_through_a_memory_without_gradients_says_that_the_encoders_learn_nothing():
    model = tiny_captioner()
    inputs, ids = tiny_batch()
    with torch.no_grad():
        seen = model.encode(**inputs)
        model(encoder_outputs=seen, labels=ids)  # nobody learns
    with pytest.warns(UserWarning, match="`encoder_outputs` was encoded without gradients, so that the encoders learn"):
        model(encoder_outputs=seen, labels=ids).loss.backward()
    assert all(own.grad is None for own in model.encoder.parameters())
    assert any(own.grad is not None for own in model.decoder.parameters())


def test_frozen_encoders_and_a_memory_with_gradients_are_silent(recwarn):
    model = tiny_captioner()
    inputs, ids = tiny_batch()
    model(encoder_outputs=model.encode(**inputs), labels=ids).loss.backward()
    assert any(own.grad is not None for own in model.encoder.parameters())
    model.encoder.requires_grad_(False)
    with torch.no_grad():
        seen = model.encode(**inputs)
    model(encoder_outputs=seen, labels=ids).loss.backward()
    assert not [warning for warning in recwarn if "encoder_outputs" in str(warning.message)]


@pytest.mark.parametrize("before", [torch.no_grad, torch.inference_mode])
def test_looking_without_gradients_first_takes_no_gradient_from_the_encoders(before):
    model = tiny_captioner()
    inputs, ids = tiny_batch()
    expected = gradients(model, model.encode(**inputs), ids)
    seen = model.encode(**inputs)
    with before():
        model.decode(ids, seen)
    found = gradients(model, seen, ids)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], own) for name, own in expected.items())
