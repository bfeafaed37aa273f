"""Products by oneDNN: torch's own, forward and backward, and only where they are meant."""

import pytest
import torch
from accelerate import Accelerator
from conftest import tiny_batch, tiny_captioner
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from captioner.cpu import onednn, products, wide_products
from captioner.training.gradients import Gradients
from captioner.training.objectives import CrossEntropy

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def everywhere(monkeypatch):
    """As on a processor where oneDNN is wider, for products of any size."""
    monkeypatch.setattr(products, "LEAST", 0)
    monkeypatch.setattr(products, "onednn_is_wider", lambda: True)


@pytest.fixture
def counted(monkeypatch):
    """The products that oneDNN was asked for."""
    asked, own = [], onednn.linear
    monkeypatch.setattr(onednn, "linear", lambda *given: asked.append(given) or own(*given))
    return asked


def linear(shape, words, bias, turned, seed=0):
    """x, weight and bias that want gradients, x maybe lying the other way round."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, 5, generator=draw)
    x = x.transpose(-1, -2).contiguous().transpose(-1, -2) if turned else x
    weight, added = torch.randn(words, 5, generator=draw), torch.randn(words, generator=draw)
    return [own.requires_grad_() for own in ([x, weight, added] if bias else [x, weight])]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 9), st.booleans(), st.booleans())
def test_values_and_gradients_are_those_of_linear(shape, words, bias, turned):
    given = linear(shape, words, bias, turned)
    expected = F.linear(*given)
    with wide_products(CPU):
        found = F.linear(*given)
    torch.testing.assert_close(found, expected)
    assert type(found.grad_fn) is not type(expected.grad_fn)
    towards = torch.randn(expected.shape)
    for mine, theirs in zip(*(torch.autograd.grad(y, given, towards) for y in (found, expected)), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_what_needs_no_gradient_gets_none(counted):
    x, weight, bias = linear([3], 4, True, False)
    with wide_products(CPU):
        y = F.linear(x.detach(), weight, bias.detach())
    y.sum().backward()
    assert (weight.grad is not None, bias.grad, len(counted)) == (True, None, 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_numbers_and_autocast_are_left_to_torch(dtype, counted):
    x, weight = (own.detach() for own in linear([3], 4, False, False))
    with wide_products(CPU):
        torch.testing.assert_close(F.linear(x.to(dtype), weight.to(dtype)), x.to(dtype) @ weight.to(dtype).t())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert F.linear(x, weight).dtype == torch.bfloat16
    assert counted == []


def test_small_products_are_left_to_torch(counted, monkeypatch):
    monkeypatch.setattr(products, "LEAST", 61)
    with wide_products(CPU):
        F.linear(*linear([3], 4, False, False))
        assert counted == []
        F.linear(*linear([4], 4, False, False))
    assert len(counted) == 1


def test_elsewhere_nothing_changes(counted, monkeypatch):
    monkeypatch.setattr(products, "onednn_is_wider", lambda: False)
    with wide_products(CPU):
        F.linear(*linear([3], 4, True, False))
    assert counted == []


def test_a_captioner_learns_the_same(counted):
    model = tiny_captioner().train()
    grads, (inputs, ids) = [], tiny_batch()
    for context in (torch.enable_grad(), wide_products(CPU)):
        with context:
            torch.manual_seed(0)
            model(**inputs, labels=ids).loss.backward()
        grads.append({name: own.grad.clone() for name, own in model.named_parameters() if own.grad is not None})
        model.zero_grad()
    assert len(counted) > 20
    for name, own in grads[0].items():
        torch.testing.assert_close(grads[1][name], own, atol=2e-6, rtol=2e-5)


def test_checkpoints_compute_again_what_they_computed():
    model, (inputs, ids) = tiny_captioner().train(), tiny_batch()
    gradients = Gradients(Accelerator(cpu=True), model, CrossEntropy())
    found = []
    for prepare in (lambda: None, model.activation_checkpointing_enable):
        prepare()
        torch.manual_seed(0)
        gradients([{**inputs, "decoder_input_ids": ids, "labels": ids}])
        found.append({name: own.grad.clone() for name, own in model.named_parameters() if own.grad is not None})
        model.zero_grad()
    for name, own in found[0].items():
        torch.testing.assert_close(found[1][name], own, atol=2e-6, rtol=2e-5)
