"""Packed keys and values: softmax attention over what is not hidden, for any number of queries and of images."""

import pytest
import torch
from conftest import tiny_batch, tiny_captioner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from captioner.cpu import attention, prepared
from captioner.cpu.packed_key_value import PackedMatrices, attend, pack
from captioner.search import SearchOptions, search

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
few = st.integers(1, 6)


def drawn(images, heads, states, width, queries, seed=0):
    """Queries (B, R, H·d), keys and values (B, H, S, d), and which states are hidden (B, S): never all of an image."""
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, images, heads, states, width, generator=generator)
    hidden = torch.rand(images, states, generator=generator) < 0.4
    hidden[:, 0] = False
    return torch.randn(images, queries, heads * width, generator=generator), keys, values, hidden


def expected(query, keys, values, hidden):
    heads = query.unflatten(-1, (keys.shape[1], -1)).transpose(1, 2)
    mask = None if hidden is None else ~hidden[:, None, None]
    return F.scaled_dot_product_attention(heads, keys, values, mask).transpose(1, 2).flatten(2)


@settings(max_examples=60, deadline=None)
@given(few, few, st.integers(1, 40), st.sampled_from([1, 4, 16, 64]), few, few, st.booleans())
def test_packed_keys_and_values_attend_as_sdpa_does(images, heads, states, width, queries, rows, all_seen):
    query, keys, values, hidden = drawn(images, heads, states, width, queries)
    hidden = None if all_seen else hidden
    with torch.no_grad():
        got = attend(query, *pack(keys, values, hidden, rows))
    torch.testing.assert_close(got, expected(query, keys, values, hidden), rtol=1e-5, atol=1e-5)


@given(st.integers(1, 8).flatmap(lambda count: st.permutations(range(count))), st.data())
def test_images_that_stay_keep_their_keys_and_what_is_hidden(order, data):
    query, keys, values, hidden = drawn(len(order), 2, 9, 8, 3)
    wanted, held = expected(query, keys, values, hidden), pack(keys, values, hidden, 3)
    while order:
        stay = torch.tensor(order)
        query, wanted, held = query[stay], wanted[stay], [part.select(stay) for part in held]
        with torch.no_grad():
            torch.testing.assert_close(attend(query, *held), wanted, rtol=1e-5, atol=1e-5)
        order = data.draw(st.permutations(range(len(order))))[: data.draw(st.integers(0, len(order) - 1))]


def test_they_are_packed_anew_when_half_of_the_images_have_left():
    keys = pack(*drawn(8, 2, 9, 8, 3)[1:3], None, 3)[0]
    five, four = keys.select(torch.arange(5)), keys.select(torch.arange(4))
    assert five.packed is keys.packed
    assert four.nbytes == keys.nbytes / 2
    assert five.select(torch.tensor([4, 0])).nbytes == keys.nbytes / 4


def test_they_take_the_bytes_of_keys_and_values():
    _, keys, values, hidden = drawn(2, 3, 17, 8, 1)
    assert [part.nbytes for part in pack(keys, values, hidden, 3)] == [keys.nbytes, values.nbytes]


def test_images_whose_captions_are_finished_leave_packed_keys_and_values(monkeypatch):
    model, left = tiny_captioner(decoder={"tie_word_embeddings": False, "initializer_range": 0.3}), []
    select = PackedMatrices.select
    monkeypatch.setattr(attention, "MANY", 0)
    monkeypatch.setattr(
        PackedMatrices, "select", lambda packed, images: left.append(len(images)) or select(packed, images)
    )
    memory = model.encode(**tiny_batch(samples=8)[0])
    options = SearchOptions(num_beams=3, max_new_tokens=16, eos_token_id=(2, 3, 4, 5))
    with torch.no_grad():
        found, wanted = (
            [[one.ids for one in own] for own in search(one, memory, options)]
            for one in (prepared(model, 8, 3, "fast"), model)
        )
    assert found == wanted
    assert left
