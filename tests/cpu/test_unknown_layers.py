"""Layers that are not what a captioner was built with: they say on the fast path what they say without it."""

import warnings

import pytest
import torch
from conftest import tiny_batch
from searches import EOS, tiny_captioner, until_end
from torch import nn
from torch.nn.utils import parametrize

from captioner.cpu import attention, linear_maps, prepared
from captioner.cpu.linear_maps import Direct, Packed
from captioner.search import SearchOptions, search

peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN"),
    pytest.mark.filterwarnings("ignore:.*quantiz", "ignore:Already found a `peft_config`"),
]

BLOCK = "decoder.blocks.0"
SELF, FEED, CROSS = f"{BLOCK}.self_attention", f"{BLOCK}.feed_forward", f"{BLOCK}.cross_attention"
MODES = {  # name → mode, and where it has a cross-attention
    "concatenated": (("concatenated",), f"{CROSS}.attention"),
    "gated": (("separate", "gated"), f"{CROSS}.attentions.context"),
    "joint": (("separate", "joint"), f"{CROSS}.attentions.image"),
}
LINEAR = [
    *(f"{SELF}.{name}" for name in ("query", "key", "value", "output")),
    *(f"CROSS.{name}" for name in ("query", "key", "value", "output")),
    f"{FEED}.0",
    f"{FEED}.2",
    "lm_head",
    "encoder.projections.context",
    "encoder.image.backbone.blocks.0.attn.qkv",
]
AROUND = [f"{FEED}.1", FEED, SELF, "CROSS", f"{BLOCK}.feed_residual", BLOCK]
BATCHES = {1: (8, 1), 3: (3, 3)}  # beams → images and captions of an image


class Wrapped(nn.Module):
    """What a user may put around a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *given, **named):
        return 1.5 * self.layer(*given, **named)


class Turned(nn.Linear):
    """A linear map of another kind."""

    def forward(self, x):
        return super().forward(x).roll(1, -1)


class Halved(nn.Module):
    """A parametrization."""

    def forward(self, weight):
        return weight / 2


def put(model, path, layer):
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent).add_module(name, layer)


def adapt(model, path, **options):
    config = peft.LoraConfig(
        r=2, lora_alpha=16, target_modules=path.replace(".", r"\."), init_lora_weights=False, **options
    )
    peft.inject_adapter_in_model(config, model)


def decompose(model, path):
    adapt(model, path, use_dora=True)


def quantise(model, path):
    model.generation_config.eos_token_id = None  # numbers depend on all that is multiplied at once: no image may leave
    with warnings.catch_warnings(action="ignore"):
        layer = nn.Sequential(model.get_submodule(path))
        put(model, path, torch.ao.quantization.quantize_dynamic(layer, {nn.Linear}, torch.qint8)[0])


def parametrise(model, path):
    parametrize.register_parametrization(model.get_submodule(path), "weight", Halved())


def hook(model, path):
    model.get_submodule(path).register_forward_hook(lambda layer, given, y: y.roll(1, -1))


def hook_before(model, path):
    model.get_submodule(path).register_forward_pre_hook(lambda layer, given: (given[0].roll(1, -1), *given[1:]))


def patch(model, path):
    layer = model.get_submodule(path)
    layer.forward = lambda *given, own=layer.forward, **named: 1.5 * own(*given, **named)


def wrap(model, path):
    put(model, path, Wrapped(model.get_submodule(path)))


def derive(model, path):
    layer = model.get_submodule(path)
    turned = Turned(layer.in_features, layer.out_features, bias=layer.bias is not None)
    turned.load_state_dict(layer.state_dict())
    put(model, path, turned)


@pytest.fixture(autouse=True)
def tiny_matrices_count_as_middling(monkeypatch):
    monkeypatch.setattr(linear_maps, "SMALL", 0)
    monkeypatch.setattr(attention, "MANY", 0)


def assert_the_same(model, layout, beams):
    """Logits of a pass over captions, and the ids of searches and of `generate`."""
    images, captions = BATCHES[beams]
    fast, (inputs, ids) = prepared(model, images, captions, layout), tiny_batch(samples=images)
    options = {"num_beams": beams, "max_new_tokens": 8}
    with torch.no_grad():
        memory, own = model.encode(**inputs), fast.encode(**inputs)
        torch.testing.assert_close(fast.decode(ids, own).logits, model.decode(ids, memory).logits, rtol=1e-4, atol=1e-4)
        ends = [] if model.generation_config.eos_token_id is None else [EOS]
        expected = [until_end(row[1:], ends) for row in model.generate(encoder_outputs=memory, **options).tolist()]
        slow, quick = (
            [best.ids for best, *_ in search(*one, SearchOptions(**options))] for one in ((model, memory), (fast, own))
        )
    assert quick == slow == expected


def logits(model):
    inputs, ids = tiny_batch()
    with torch.no_grad():
        return model.decode(ids, model.encode(**inputs)).logits


def assert_kept(model, before):
    """What was changed matters, and stays."""
    model.eval()
    assert not torch.allclose(logits(model), before, atol=1e-3)
    for layout, beams in (("small", 1), ("fast", 3)):
        assert_the_same(model, layout, beams)


@pytest.mark.parametrize("path", [*LINEAR, "decoder.token_embedding"])
def test_an_adapter_on_any_one_layer_stays(path):
    model = tiny_captioner()
    before = logits(model)
    adapt(model, path.replace("CROSS", MODES["concatenated"][1]))
    assert_kept(model, before)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("change", [adapt, decompose, quantise, parametrise, hook, hook_before, patch, wrap, derive])
def test_linear_maps_that_are_not_plain_stay_wherever_they_are(mode, change):
    mode, cross = MODES[mode]
    model = tiny_captioner(*mode)
    before = logits(model)
    for path in LINEAR:
        if mode[-1] != "joint" or path != "CROSS.output" or change not in (quantise, wrap):  # whose bias `Joint` reads
            change(model, path.replace("CROSS", cross))
    assert_kept(model, before)


@pytest.mark.parametrize("change", [hook, hook_before, patch, wrap])
@pytest.mark.parametrize("path", AROUND)
def test_what_is_around_linear_maps_stays_where_it_is_not_plain(path, change):
    model = tiny_captioner()
    before = logits(model)
    change(model, path.replace("CROSS", MODES["concatenated"][1]))
    assert_kept(model, before)


@pytest.mark.parametrize("mode", MODES)
def test_a_hooked_mode_and_a_hooked_decoder_stay(mode):
    for path in (CROSS, "decoder"):
        model = tiny_captioner(*MODES[mode][0])
        before = logits(model)
        hook(model, path)
        assert_kept(model, before)


@pytest.mark.parametrize("mode", ["concatenated", "gated"])
def test_a_captioner_quantised_as_a_whole_says_the_same(mode):
    model = tiny_captioner(*MODES[mode][0])
    before = logits(model)
    model.generation_config.eos_token_id = None
    with warnings.catch_warnings(action="ignore"):
        model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
    assert_kept(model, before)


def test_what_is_known_beside_an_unknown_layer_is_faster_all_the_same():
    model = tiny_captioner()
    adapt(model, f"{FEED}.0")
    fast = prepared(model, 3, 3, "fast")
    assert fast.decoder.blocks[0].feed_forward[0] is model.decoder.blocks[0].feed_forward[0]
    assert isinstance(fast.decoder.blocks[0].feed_forward[2], Packed)
    assert isinstance(prepared(model, 3, 3, "small").lm_head, Direct)


def test_nothing_within_an_unknown_layer_is_replaced():
    model = tiny_captioner()
    wrap(model, FEED)
    wrap(model, "decoder.blocks.1")
    fast = prepared(model, 3, 3, "fast")
    assert fast.decoder.blocks[0].feed_forward is model.decoder.blocks[0].feed_forward
    assert fast.decoder.blocks[1] is model.decoder.blocks[1]


def test_a_captioner_of_a_class_of_its_own_is_left_alone():
    model = tiny_captioner()
    model.__class__ = type("Other", (type(model),), {})
    assert prepared(model, 3, 3) is model


def test_dropout_stays_while_a_captioner_is_trained():
    model = tiny_captioner(dropout=0.5).train()
    kinds = [type(part) for part in prepared(model, 3, 3).decoder.modules()]
    assert kinds.count(nn.Dropout) == [type(part) for part in model.decoder.modules()].count(nn.Dropout)
