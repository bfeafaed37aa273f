"""Kinds of attention to a memory against their definitions: softmax, chosen blocks and linear attention."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from captioner.model import Softmax
from captioner.model.attention_kinds import KINDS, Linear, TopK
from captioner.model.memory_options import ATTENTIONS

every_kind = pytest.mark.parametrize("kind", [Softmax(0.5), TopK(0.5, 2, 2), Linear(0.5)], ids=KINDS)


def dense(query, keys, values, mask):
    return F.scaled_dot_product_attention(query, keys, values, mask[:, None, None], scale=0.5).transpose(1, 2)


def tensors(samples=3, heads=2, queries=4, tokens=11, width=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    shapes = [(samples, heads, queries, width), *[(samples, heads, tokens, width)] * 2]
    query, keys, values = (2 * torch.randn(shape, generator=draw) for shape in shapes)
    mask = torch.rand(samples, tokens, generator=draw) < 0.7
    mask[:, 0] |= ~mask.any(dim=1)
    return query, keys, values, mask


def attend(kind, query, keys, values, mask):
    key_value = kind.key_value(kind.features(keys), values, mask)
    return kind.attend(kind.features(query), key_value, mask, dense)


def test_every_kind_of_the_options_is_built():
    assert set(KINDS) == set(ATTENTIONS)


sizes = st.integers(1, 4)


@settings(max_examples=60)
@given(
    shape=st.fixed_dictionaries(
        {"samples": sizes, "heads": sizes, "queries": sizes, "width": sizes, "tokens": st.integers(1, 20)}
    ),
    kind=st.one_of(st.just(Softmax(0.5)), st.just(Linear(0.5)), st.builds(TopK, st.just(0.5), sizes, sizes)),
    seed=st.integers(0, 1000),
)
def test_what_is_kept_gives_what_whole_rows_of_weights_give(shape, kind, seed):
    *given, mask = tensors(**shape, seed=seed)
    query, keys, values = (x.double() for x in given)
    weights = kind.weights(kind.features(query), kind.features(keys), mask)
    expected = (weights @ values).transpose(1, 2)
    torch.testing.assert_close(attend(kind, query, keys, values, mask), expected, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1], dtype=torch.float64))
    assert (weights.transpose(1, 3)[~mask] == 0).all()


@settings(max_examples=40)
@given(block_size=st.integers(1, 12), spare=st.integers(0, 3), seed=st.integers(0, 1000))
def test_blocks_that_cover_the_memory_give_softmax(block_size, spare, seed):
    *given, mask = tensors(seed=seed)
    given = [x.double() for x in given]
    blocks = -(-mask.shape[1] // block_size) + spare
    found = attend(TopK(0.5, block_size, blocks), *given, mask)
    torch.testing.assert_close(found, attend(Softmax(0.5), *given, mask), atol=1e-12, rtol=1e-12)


@settings(max_examples=40)
@given(block_size=st.integers(1, 4), blocks=st.integers(1, 4), seed=st.integers(0, 1000))
def test_a_query_attends_to_the_blocks_whose_mean_key_it_scores_highest(block_size, blocks, seed):
    query, keys, values, mask = tensors(seed=seed)
    found = attend(TopK(0.5, block_size, blocks), query, keys, values, mask)
    for b, h, q in torch.cartesian_prod(*map(torch.arange, query.shape[:3])).tolist():
        own, other = keys[b, h][mask[b]].split(block_size), values[b, h][mask[b]].split(block_size)
        best = sorted(range(len(own)), key=lambda i: -float(query[b, h, q] @ own[i].mean(0)))[:blocks]
        picked, carried = (torch.cat([part[i] for i in best]) for part in (own, other))
        expected = (picked @ query[b, h, q] * 0.5).softmax(-1) @ carried
        torch.testing.assert_close(found[b, q, h], expected, atol=2e-6, rtol=1e-5)


def test_linear_attention_is_its_definition_token_by_token():
    query, keys, values, mask = tensors()
    found = attend(Linear(0.5), query, keys, values, mask)

    def feature(x):
        exponents = torch.cat([x, -x]).exp()
        return exponents / exponents.sum()

    for b, h, q in torch.cartesian_prod(*map(torch.arange, query.shape[:3])).tolist():
        shares = torch.stack([feature(query[b, h, q]) @ feature(key) for key in keys[b, h][mask[b]]])
        expected = (shares[:, None] * values[b, h][mask[b]]).sum(0) / shares.sum()
        torch.testing.assert_close(found[b, q, h], expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("tokens", [5, 50])
def test_linear_attention_holds_the_same_however_long_the_memory_is(tokens):
    _, keys, values, mask = tensors(tokens=tokens)
    kept = Linear(0.5).key_value(Linear(0.5).features(keys), values, mask)
    assert [part.shape for part in kept] == [(3, 2, 8, 4), (3, 2, 8, 1)]


@every_kind
@settings(max_examples=25)
@given(places=st.lists(st.integers(0, 11), min_size=1, max_size=8), seed=st.integers(0, 1000))
def test_padding_anywhere_changes_nothing(kind, places, seed):
    query, keys, values, mask = tensors(seed=seed)
    expected = attend(kind, query, keys, values, mask)
    for place in places:
        keys, values = (torch.cat([x[:, :, :place], 9 * x[:, :, :1] + 9, x[:, :, place:]], 2) for x in (keys, values))
        mask = torch.cat([mask[:, :place], torch.zeros_like(mask[:, :1]), mask[:, place:]], 1)
    torch.testing.assert_close(attend(kind, query, keys, values, mask), expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@every_kind
def test_a_row_with_nothing_to_attend_to_is_zero_with_finite_gradients(kind, dtype):
    query, keys, values, mask = tensors()
    mask[1] = False
    query, keys, values = (x.to(dtype).requires_grad_() for x in (query, keys, values))
    y = attend(kind, query, keys, values, mask)
    y.float().square().mean().backward()
    assert (y[1] == 0).all()
    assert (y[0] != 0).any()
    assert all(x.grad.isfinite().all() and (x.grad[1] == 0).all() for x in (query, keys, values))


def test_gradients_of_chosen_blocks_are_those_of_whole_rows_of_weights():
    kind, results = TopK(0.5, 2, 2), []
    for sparse in (True, False):
        *given, mask = tensors()
        query, keys, values = given = [x.requires_grad_() for x in given]
        whole = (kind.weights(query, keys, mask) @ values).transpose(1, 2)
        y = attend(kind, query, keys, values, mask) if sparse else whole
        y.square().mean().backward()
        results.append([y, *(x.grad for x in given)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
