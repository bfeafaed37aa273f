"""Layouts of a decoder for searching: the same captions, shared parameters, and nothing where nothing is gained."""

import pytest
import torch
from conftest import tiny_batch
from conftest import tiny_captioner as tied_captioner

from captioner.cpu import LAYOUTS, LayoutError, attention, linear_maps, prepared, replacing
from captioner.cpu.attention import FastCrossAttention, FastSelfAttention
from captioner.cpu.linear_maps import Direct, Packed, Transposed
from captioner.model import MODES, SharedMemoryCache
from captioner.search import SearchOptions, search

BATCHES = [(1, 1), (8, 1), (1, 4), (3, 4), (8, 3)]  # images × beams: one row, greedy, few rows, many
SEARCHES = {1: SearchOptions(), 3: SearchOptions(num_beams=3), 4: SearchOptions(num_beams=4, num_return_sequences=2)}
FAMILIES = {
    "grouped": {"num_key_value_heads": 1, "positions": "rotary", "query_key_norm": True, "attention_bias": False},
    "post-norm": {"norm_position": "post", "embedding_norm": True, "head_transform": True, "head_bias": True},
}
every_mode_once = pytest.mark.parametrize("mode", MODES, ids=str)
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")


@pytest.fixture(autouse=True)
def tiny_matrices_count_as_middling(monkeypatch):
    monkeypatch.setattr(linear_maps, "SMALL", 0)
    monkeypatch.setattr(attention, "MANY", 0)


def width(monkeypatch, wider):
    for room in (linear_maps, replacing):
        monkeypatch.setattr(room, "onednn_is_wider", lambda: wider)


def tiny_captioner(*mode, **decoder):
    return tied_captioner(*mode, decoder={"tie_word_embeddings": False, "initializer_range": 0.3} | decoder)


def parts(model, kind):
    return [part for part in model.decoder.modules() if isinstance(part, kind)]


def captions(model, memory, options):
    return [[one.ids for one in own] for own in search(model, memory, options)]


@needs_onednn
@every_mode_once
@every_layout
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_every_layout_finds_the_same_captions(mode, layout, batch):
    model, (images, beams) = tiny_captioner(*mode), batch
    memory = model.encode(**tiny_batch(samples=images)[0])
    fast = prepared(model, images, beams, layout)
    assert captions(fast, memory, SEARCHES[beams]) == captions(model, memory, SEARCHES[beams])


@needs_onednn
@pytest.mark.parametrize("layout", ["small", "fast"])
@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("limits", [{"LARGE": 0}, {"MUCH": 0}, {"SMALL": 2**18}, {"FEW": 0}], ids=str)
@pytest.mark.parametrize("wider", [False, True])
def test_the_size_of_matrices_and_the_amount_of_work_change_no_caption(monkeypatch, wider, limits, layout, batch):
    width(monkeypatch, wider)
    for name, limit in limits.items():
        monkeypatch.setattr(linear_maps, name, limit)
    model, (images, beams) = tiny_captioner(), batch
    memory = model.encode(**tiny_batch(samples=images)[0])
    fast = prepared(model, images, beams, layout)
    assert captions(fast, memory, SEARCHES[beams]) == captions(model, memory, SEARCHES[beams])


@needs_onednn
@pytest.mark.parametrize("layout", ["auto", "fast"])
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_how_many_keys_there_are_changes_no_caption(monkeypatch, layout, batch):
    model, (images, beams) = tiny_captioner(), batch
    memory = model.encode(**tiny_batch(samples=images)[0])
    expected = captions(model, memory, SEARCHES[beams])
    for many in (0, 2**18):
        monkeypatch.setattr(attention, "MANY", many)
        assert captions(prepared(model, images, beams, layout), memory, SEARCHES[beams]) == expected


@needs_onednn
@every_layout
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_decoders_keeps_its_captions(family, layout):
    model = tiny_captioner(**FAMILIES[family])
    memory = model.encode(**tiny_batch(samples=3)[0])
    fast = prepared(model, 3, 4, layout)
    assert captions(fast, memory, SEARCHES[4]) == captions(model, memory, SEARCHES[4])


@needs_onednn
@pytest.mark.parametrize("layout", ["small", "fast"])
@pytest.mark.parametrize("large", [0, 2**20])
@pytest.mark.parametrize(("name", "within"), [("gelu", True), ("gelu_new", True), ("relu", False)])
def test_gelu_is_computed_within_the_product(monkeypatch, name, within, large, layout):
    monkeypatch.setattr(linear_maps, "LARGE", large)
    model = tiny_captioner(activation=name)
    fast, x = prepared(model, 3, 4, layout), torch.randn(12, 1, model.config.decoder.hidden_size)
    for block, own in zip(model.decoder.blocks, fast.decoder.blocks, strict=True):
        assert isinstance(own.feed_forward[1], torch.nn.Identity) == within
        for rows in (x, x[:2]):
            with torch.no_grad():
                torch.testing.assert_close(own.feed_forward(rows), block.feed_forward(rows), rtol=1e-5, atol=1e-6)


@needs_onednn
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("images", [1, 5, 40])
def test_a_batch_of_another_size_than_expected_is_captioned_too(images, tied):
    model = tiny_captioner(tie_word_embeddings=tied)
    memory = model.encode(**tiny_batch(samples=images)[0])
    fast = prepared(model, 6, 4, "fast")
    assert captions(fast, memory, SEARCHES[4]) == captions(model, memory, SEARCHES[4])


@needs_onednn
@every_layout
def test_parameters_and_encoders_are_shared_and_the_captioner_is_left_as_it_is(layout):
    model = tiny_captioner()
    before, kinds = {id(parameter) for parameter in model.parameters()}, [type(part) for part in model.modules()]
    fast = prepared(model, 1, 5, layout)
    assert fast is not model
    assert fast.encoder is model.encoder
    assert all(id(parameter) in before for parameter in fast.parameters())
    assert [type(part) for part in model.modules()] == kinds


@needs_onednn
def test_small_copies_no_matrix_and_fast_copies_them_for_the_rows_at_hand(monkeypatch):
    model = tiny_captioner(vocab_size=50)
    small = prepared(model, 3, 4, "small")
    assert isinstance(small.lm_head, Direct)
    assert not parts(small, Packed | Transposed)
    for images, wider, kind in ((1, False, Transposed), (1, True, Packed), (4, False, Packed)):
        width(monkeypatch, wider)
        fast = prepared(model, images, 1, "fast")
        assert isinstance(fast.lm_head, kind)
        assert all(isinstance(part.merged, kind) for part in parts(fast, FastSelfAttention))


@needs_onednn
@pytest.mark.parametrize(("layout", "beams", "held"), [("small", 4, False), ("auto", 4, True), ("fast", 1, True)])
def test_keys_and_values_of_the_memory_are_held_only_where_the_layout_has_room(layout, beams, held):
    model = tiny_captioner()
    inputs, ids = tiny_batch(samples=8)
    fast, cache = prepared(model, 8, beams, layout), SharedMemoryCache.around()
    fast.decode(ids, fast.encode(**inputs), cache=cache)
    assert any(cache.is_updated.values()) == held


@needs_onednn
def test_a_row_with_nothing_to_attend_to_gets_exactly_nothing_without_keys_and_values():
    slow = tiny_captioner().decoder.blocks[0].cross_attention.attention
    states, mask = torch.randn(2, 7, slow.key.in_features), torch.tensor([[False] * 7, [True] * 7])
    y = FastCrossAttention(slow, 0, 1)(torch.randn(6, 1, slow.query.in_features), states, mask, None)
    assert (y[:3] == 0).all()
    assert y[3:].abs().min() > 0


def test_nothing_is_done_where_nothing_is_gained():
    model = tiny_captioner().to(torch.bfloat16)
    assert prepared(model, 1, 5) is model


def test_an_unknown_layout_is_refused_with_those_there_are():
    with pytest.raises(LayoutError, match="small, auto, fast"):
        prepared(tiny_captioner(), 1, 5, "quick")


@needs_onednn
@every_mode_once
@pytest.mark.parametrize("beams", [1, 3])
def test_generate_finds_the_same_too(mode, beams):
    model = tiny_captioner(*mode)
    inputs, prompt = tiny_batch(samples=3, tokens=4)
    mask = torch.ones_like(prompt)
    mask[0, :2] = 0
    fast = prepared(model, 3, beams, "fast")
    for given in ({}, {"decoder_input_ids": prompt, "decoder_attention_mask": mask}):
        found = (one.generate(**inputs, **given, num_beams=beams, max_new_tokens=6).tolist() for one in (fast, model))
        assert next(found) == next(found)
