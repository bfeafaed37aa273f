"""A mode is one class and one name: a seventh one is built, trained, searched, explained, switched and saved."""

import copy

import pytest
import torch
from conftest import NORMS, tiny_batch, tiny_captioner, tiny_config
from searches import assert_equal_to_generate, reference
from switches import MIXED, all_logits, largest_change, switch, train_a_little
from torch import nn

from captioner import Captioner, CaptionerConfig
from captioner.cpu import prepared
from captioner.explain.recording import record, rollout
from captioner.model import MODES, CrossAttention, Mode
from captioner.model.branches import Branch, mean
from captioner.model.layers import residual
from captioner.model.recorded import by_norm
from captioner.search import SearchOptions, search

NAME = ("separate", "halves")
CONCATENATED = ("concatenated",)
every_norm = pytest.mark.parametrize("norm", NORMS)


class Halves(Mode):
    """x + ½ Σ A_i(LN x, H_i): a plain sum of two softmaxes, halved."""

    combination = "half a sum"
    calls_attentions = True

    def __init__(self, config, widths, layer):
        super().__init__(config, widths, layer)
        first = layer * len(widths)
        self.readers = nn.ModuleDict(
            {name: CrossAttention(config, width, first + i, name) for i, (name, width) in enumerate(widths.items())}
        )
        self.around = residual(config)

    def forward(self, x, memory, cache=None):
        return self.around(x, lambda h: sum(self.half(name, h, memory, cache) for name in self.present(memory)))

    def present(self, memory):
        return [name for name in self.readers if name in memory.states]

    def half(self, name, h, memory, cache):
        return self.readers[name](h, memory.states[name], memory.masks[name], cache) / 2

    def attributed(self, recorded, memory):
        added = {name: recorded.outputs[self.readers[name]] / 2 for name in self.present(memory)}
        return by_norm(recorded, self.readers, added)

    def branches(self):
        norm, order = self.around.norm.state_dict(), type(self.around)
        return {name: Branch(reader.state_dict(), norm, order) for name, reader in self.readers.items()}

    def load_branches(self, branches):
        for name, branch in branches.items():
            self.readers[name].load_state_dict(branch.attention)
        self.around.norm.load_state_dict(mean(branch.norm for branch in branches.values()))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(MODES, NAME, Halves)


def captioner(**decoder):
    """With a vocabulary head of its own: a tied one mostly repeats the last word."""
    return tiny_captioner(*NAME, decoder={"tie_word_embeddings": False, "initializer_range": 0.3} | decoder)


def test_the_configuration_takes_it_and_names_it_among_the_others():
    assert tiny_config(*NAME).mode is Halves
    with pytest.raises(ValueError, match="must be one of 'serial', .*'joint', 'halves', but is 'thirds'"):
        tiny_config("separate", "thirds")
    assert tiny_config("separate").fusion == "serial"


def test_it_may_give_each_modality_its_own_kind_of_attention():
    memory = {"context": {"attention": "linear"}}
    assert tiny_config(*NAME, memory=memory).memory == memory
    with pytest.raises(ValueError, match="attends to all modalities at once"):
        tiny_config("separate", "joint", memory=memory)


@every_norm
def test_it_trains(norm):
    model = tiny_captioner(*NAME, norm_position=norm).train()
    before = copy.deepcopy(model.state_dict())
    train_a_little(model, steps=1)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in before if "cross_attention" in name and "key.bias" not in name} <= changed


@every_norm
@pytest.mark.parametrize("beams", [1, 3])
def test_searches_find_what_generate_finds(norm, beams):
    model = captioner(norm_position=norm)
    inputs, _ = tiny_batch()
    memory = model.encode(**inputs)
    assert_equal_to_generate(model, memory, num_beams=beams, max_new_tokens=8)


@pytest.mark.parametrize("called", [True, False])
@pytest.mark.parametrize("beams", [1, 3])
def test_the_fast_path_replaces_its_attentions_only_if_it_calls_them_and_finds_the_same(beams, called, monkeypatch):
    monkeypatch.setattr(Halves, "calls_attentions", called)
    model = captioner()
    inputs, ids = tiny_batch(4)
    memory = model.encode(**inputs)
    fast = prepared(model, images=4, beams=beams)
    readers = [reader for block in fast.decoder.blocks for reader in block.cross_attention.readers.values()]
    assert {type(reader) is not CrossAttention for reader in readers} == {called}
    torch.testing.assert_close(fast.decode(ids, memory).logits, model.decode(ids, memory).logits, atol=1e-4, rtol=1e-4)
    options = {"num_beams": beams, "max_new_tokens": 8}
    expected, _ = reference(model, memory, **options)
    assert [one.ids for image in search(fast, memory, SearchOptions(**options)) for one in image] == expected


@every_norm
def test_its_attention_is_read_back(norm):
    model = tiny_captioner(*NAME, norm_position=norm)
    inputs, ids = tiny_batch(3, 2)
    with torch.no_grad():
        memory = model.encode(**inputs)
        seen = record(model, ids, memory)
    for weights in [*seen.cross_attention, rollout(seen)]:
        rows = sum(own.sum(dim=-1) for own in weights.values())
        torch.testing.assert_close(rows, torch.ones_like(rows))


@every_norm
@pytest.mark.parametrize("other", [CONCATENATED, ("separate", "serial"), ("separate", "gated")], ids=lambda m: m[-1])
def test_it_is_switched_to_and_from(other, norm):
    model = tiny_captioner(*other, norm_position=norm)
    (warning,) = switch(model, NAME)
    assert "outputs change with the switch to halves" in warning
    assert isinstance(model.decoder.blocks[0].cross_attention, Halves)
    (warning,) = switch(model, other)
    assert "half a sum" in warning
    assert type(model.decoder.blocks[0].cross_attention) is MODES[(*other, None)[:2]]


def test_projections_survive_a_switch_there_and_back():
    model = tiny_captioner(*CONCATENATED)
    before = copy.deepcopy(model.state_dict())
    switch(model, NAME)
    switch(model, CONCATENATED)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_it_is_saved_and_loaded(tmp_path):
    model = captioner()
    model.save_pretrained(tmp_path)
    loaded = Captioner.from_pretrained(tmp_path)
    assert (CaptionerConfig.from_pretrained(tmp_path).conditioning, loaded.config.fusion) == NAME
    assert largest_change(all_logits(model), all_logits(loaded)) == 0
    options = {"num_beams": 2, "max_new_tokens": 4}
    assert torch.equal(model.generate(**MIXED, **options), loaded.generate(**MIXED, **options))


def test_a_mode_that_lacks_a_part_says_which_when_it_is_built():
    class Unfinished(Mode):
        def forward(self, x, memory, cache=None):
            return x

    with pytest.raises(TypeError, match="'?attributed'?, '?branches'?, '?load_branches'?"):
        Unfinished(tiny_config(*NAME).decoder, {"image": 32}, 0)
