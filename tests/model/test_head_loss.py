"""The loss made without keeping logits: torch's own, with its gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from captioner.cpu import products, wide_products
from captioner.model import head_loss
from captioner.model.head_loss import head_cross_entropy


def example(tokens, words, bias=True, seed=0):
    torch.manual_seed(seed)
    head, states = nn.Linear(8, words, bias=bias), torch.randn(tokens, 8, requires_grad=True)
    return head, states, torch.randint(words, (tokens,))


def gradients(loss, head, states):
    (loss * 0.3).backward()
    made = [states.grad, *(parameter.grad for parameter in head.parameters())]
    states.grad = None
    head.zero_grad()
    return made


SMOOTHING = st.sampled_from([0.0, 0.1])


@given(st.integers(1, 40), st.integers(2, 70), st.booleans(), SMOOTHING, st.integers(1, 50), st.booleans())
def test_loss_and_gradients_are_those_of_cross_entropy_on_the_logits(tokens, words, bias, smoothing, piece, wider):
    head, states, targets = example(tokens, words, bias)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head_loss, "PIECE", piece)
        patch.setattr(products, "onednn_is_wider", lambda: wider and torch.backends.mkldnn.is_available())
        with wide_products(torch.device("cpu")):
            ours = head_cross_entropy(head, states, targets, smoothing)
    theirs = F.cross_entropy(head(states), targets, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs)
    for mine, expected in zip(gradients(ours, head, states), gradients(theirs, head, states), strict=True):
        torch.testing.assert_close(mine, expected)


@pytest.fixture
def products_made(monkeypatch):
    """Shapes of all products."""
    made, own = [], head_loss.matrix_product
    monkeypatch.setattr(head_loss, "matrix_product", lambda *given: made.append(given[0].shape) or own(*given))
    return made


@pytest.mark.parametrize("recomputed", [False, True])
def test_every_product_is_made_by_the_wider_library_where_there_is_one(monkeypatch, products_made, recomputed):
    asked, own = [], products.onednn.linear
    monkeypatch.setattr(products, "onednn_is_wider", lambda: True)
    monkeypatch.setattr(products.onednn, "linear", lambda *given: asked.append(given[0].shape) or own(*given))
    head, states, targets = example(6, 20)
    with wide_products(torch.device("cpu"), recomputed):
        head_cross_entropy(head, states, targets)
    assert asked == products_made == [(6, 8), (6, 20), (20, 6)]


def test_without_gradients_only_logits_are_made(products_made):
    head, states, targets = example(6, 20)
    with torch.no_grad():
        loss = head_cross_entropy(head, states, targets)
    torch.testing.assert_close(loss, F.cross_entropy(head(states), targets, reduction="sum"))
    assert products_made == [(6, 8)]


def test_no_supervised_token_is_no_loss_and_no_gradient():
    head, states, targets = example(0, 5)
    loss = head_cross_entropy(head, states, targets)
    loss.backward()
    assert loss == 0
    assert not head.weight.grad.any()


def test_a_frozen_head_gets_no_gradient_and_lets_it_through():
    head, states, targets = example(6, 20)
    head.requires_grad_(False)
    head_cross_entropy(head, states, targets).backward()
    assert head.weight.grad is None
    assert states.grad.abs().sum() > 0


def test_a_head_that_does_more_than_multiply_is_asked_itself():
    head, states, targets = example(6, 20)
    louder = nn.Sequential(head, nn.Softsign())
    expected = F.cross_entropy(louder(states), targets, reduction="sum")
    torch.testing.assert_close(head_cross_entropy(louder, states, targets), expected)


def test_a_hooked_head_is_asked_itself():
    head, states, targets = example(6, 20)
    head.register_forward_hook(lambda module, given, y: 2 * y)
    expected = F.cross_entropy(head(states), targets, reduction="sum")
    torch.testing.assert_close(head_cross_entropy(head, states, targets), expected)


def test_autocast_is_left_to_torch():
    head, states, targets = example(6, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = head_cross_entropy(head, states, targets)
        expected = F.cross_entropy(head(states).float(), targets, reduction="sum")
    assert loss == expected
