"""Faster layouts of a decoder's matrices: the same captions, shared parameters, and nothing where nothing is gained."""

import pytest
import torch
from conftest import tiny_batch
from conftest import tiny_captioner as tied_captioner

from captioner.attention import MODES
from captioner.decoding import SearchOptions, search
from captioner.layouts import MANY_ROWS, Packed, Transposed, for_search

LAYOUTS = {1: (Transposed, True), 2: (Packed, True), MANY_ROWS + 1: (Packed, False)}  # rows → layout, also of blocks
every_mode_once = pytest.mark.parametrize("mode", MODES, ids=str)
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")


def tiny_captioner(*mode, **decoder):
    return tied_captioner(*mode, decoder={"tie_word_embeddings": False, "initializer_range": 0.3} | decoder)


def parts(model, kind):
    return [part for part in model.decoder.modules() if isinstance(part, kind)]


@needs_onednn
@every_mode_once
@pytest.mark.parametrize("rows", LAYOUTS)
@pytest.mark.parametrize("tied", [True, False])
def test_every_layout_finds_the_same_captions(mode, rows, tied):
    model = tiny_captioner(*mode, tie_word_embeddings=tied)
    fast, (layout, everywhere) = for_search(model, rows), LAYOUTS[rows]
    memory = model.encode(**tiny_batch(samples=3)[0])
    for options in (SearchOptions(), SearchOptions(num_beams=4, num_return_sequences=2)):
        expected, found = search(model, memory, options), search(fast, memory, options)
        assert [[one.ids for one in own] for own in found] == [[one.ids for one in own] for own in expected]
    assert isinstance(fast.lm_head, layout)
    assert bool(parts(fast, layout)) == everywhere


@needs_onednn
def test_parameters_and_encoders_are_shared_and_the_captioner_is_left_as_it_is():
    model = tiny_captioner()
    before, kinds = dict(model.named_parameters()), [type(part) for part in model.modules()]
    fast = for_search(model, 5)
    assert fast is not model
    assert fast.encoder is model.encoder
    assert all(parameter is before[name] for name, parameter in fast.named_parameters())
    assert [type(part) for part in model.modules()] == kinds


def test_nothing_is_copied_where_nothing_is_gained():
    model = tiny_captioner().to(torch.bfloat16)
    assert for_search(model, 5) is model
