"""Private operators of oneDNN: what stands in for a missing one computes the same, in searches and in training."""

import pytest
import torch
from accelerate import Accelerator
from conftest import tiny_batch
from hypothesis import given
from hypothesis import strategies as st
from searches import tiny_captioner
from torch.nn import functional as F

from captioner.cpu import LAYOUTS, attention, linear_maps, onednn, prepared, products, replacing
from captioner.search import SearchOptions, search
from captioner.training.gradients import Gradients
from captioner.training.objectives import CrossEntropy

OPERATORS = ("LINEAR", "PACK_LINEAR", "CONVOLUTION", "PACK_CONVOLUTION")
BATCHES = {1: (8, 1), 3: (3, 3)}  # beams → images and captions of an image
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
every_set_of_operators = pytest.mark.parametrize("missing", [OPERATORS, *((one,) for one in OPERATORS)], ids="+".join)
pytestmark = needs_onednn


@pytest.fixture(autouse=True)
def everywhere(monkeypatch):
    """As on a processor where oneDNN is wider, for matrices of any size."""
    monkeypatch.setattr(linear_maps, "SMALL", 0)
    monkeypatch.setattr(attention, "MANY", 0)
    monkeypatch.setattr(products, "LEAST", 0)
    for file in (products, linear_maps, replacing):
        monkeypatch.setattr(file, "onednn_is_wider", lambda: True)


def without(monkeypatch, missing):
    for name in missing:
        monkeypatch.setattr(onednn, name, None)


def test_this_torch_has_all_of_them():
    assert all(getattr(onednn, name) is not None for name in OPERATORS)


few = st.integers(1, 6)


@every_set_of_operators
@given(rows=few, into=few, out=few, groups=few, biased=st.booleans(), gelu=st.sampled_from([None, "none", "tanh"]))
def test_products_are_those_of_plain_matrices(missing, rows, into, out, groups, biased, gelu):
    draw = torch.Generator().manual_seed(0)
    x, matrices, bias = (
        torch.randn(*shape, generator=draw) for shape in ((rows, groups * into), (groups * out, into), (groups * out,))
    )
    bias = bias if biased else None
    pairs = zip(x.split(into, dim=1), matrices.split(out), strict=True)
    expected = torch.cat([F.linear(part, matrix) for part, matrix in pairs], dim=1)
    expected = onednn.activated(expected if bias is None else expected + bias, gelu)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        without(patch, missing)
        packed = onednn.pack_pixels(matrices, rows, groups)
        torch.testing.assert_close(onednn.by_pixels(x, packed, bias, groups, gelu), expected)
        assert torch.equal(onednn.unpacked(packed), matrices)
        if groups == 1:
            for weight in (matrices, onednn.pack_linear(matrices, rows)):
                torch.testing.assert_close(onednn.linear(x, weight, bias, gelu), expected)


def found(model, memory, options):
    return [[one.ids for one in own] for own in search(model, memory, options)]


@pytest.mark.parametrize("mode", [("concatenated",), ("separate", "gated"), ("separate", "joint")], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("beams", BATCHES)
@pytest.mark.parametrize("large", [0, 2**20])
def test_without_any_of_them_a_search_finds_the_same_captions(monkeypatch, mode, layout, beams, large):
    monkeypatch.setattr(linear_maps, "LARGE", large)
    model, (images, captions) = tiny_captioner(*mode), BATCHES[beams]
    inputs, options = tiny_batch(samples=images)[0], SearchOptions(num_beams=beams, num_return_sequences=beams)
    inputs["context_attention_mask"][0] = 0
    expected = found(model, model.encode(**inputs), options)
    without(monkeypatch, OPERATORS)
    fast = prepared(model, images, captions, layout)
    assert fast is not model
    assert found(fast, fast.encode(**inputs), options) == expected


@pytest.mark.parametrize("missing", OPERATORS)
def test_without_one_of_them_a_search_finds_the_same_captions(monkeypatch, missing):
    model, inputs = tiny_captioner(), tiny_batch()[0]
    expected = found(model, model.encode(**inputs), SearchOptions(num_beams=3))
    without(monkeypatch, [missing])
    fast = prepared(model, 3, 3, "fast")
    assert found(fast, fast.encode(**inputs), SearchOptions(num_beams=3)) == expected


def test_without_any_of_them_a_captioner_learns_the_same(monkeypatch):
    model, (inputs, ids) = tiny_captioner().train(), tiny_batch()
    steps = []
    for missing in ((), OPERATORS):
        without(monkeypatch, missing)
        torch.manual_seed(0)
        loss = Gradients(Accelerator(cpu=True), model, CrossEntropy())(
            [{**inputs, "decoder_input_ids": ids, "labels": ids}]
        )
        steps.append((loss, {name: own.grad.clone() for name, own in model.named_parameters() if own.grad is not None}))
        model.zero_grad()
    (loss, expected), (other, gradients) = steps
    torch.testing.assert_close(other, loss)
    for name, own in expected.items():
        torch.testing.assert_close(gradients[name], own, atol=2e-6, rtol=2e-5)


def test_without_the_product_this_processor_does_not_count_as_one_where_onednn_is_wider(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(onednn, "LINEAR", None)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert not products.onednn_is_wider.__wrapped__()
