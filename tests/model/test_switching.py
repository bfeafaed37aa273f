"""Switching modes keeps what a captioner has learnt, or says that it does not."""

from itertools import permutations

import pytest
import torch
from conftest import NORMS, tiny_captioner
from switches import (
    CONCATENATED,
    JOINT,
    LOOKING,
    MIXED,
    TOLERANCE,
    all_logits,
    largest_change,
    logits,
    switch,
    train_a_little,
)

from captioner import Captioner
from captioner.model import MODES, SwitchError

PAIRS = [(old, new, norm) for old, new in permutations(MODES, 2) for norm in NORMS]


def weights_apart(model):
    """For each kind of projection of the first block, the distance between the modalities'."""
    image, context = model.decoder.blocks[0].cross_attention.attentions.values()
    kinds = ("query", "key", "value", "output")
    return {kind: (getattr(image, kind).weight - getattr(context, kind).weight).norm().item() for kind in kinds}


@pytest.mark.parametrize("norm", NORMS)
def test_switching_a_concatenated_captioner_to_joint_changes_no_logit(norm):
    model = tiny_captioner(*CONCATENATED, norm_position=norm)
    train_a_little(model)
    before = all_logits(model)
    assert switch(model, JOINT) == []
    assert largest_change(before, all_logits(model)) <= TOLERANCE
    assert (model.config.conditioning, model.config.fusion) == JOINT


def test_training_after_the_switch_moves_the_modalities_apart():
    model = tiny_captioner(*CONCATENATED)
    switch(model, JOINT)
    assert set(weights_apart(model).values()) == {0.0}
    train_a_little(model, steps=1)
    assert min(weights_apart(model).values()) > 1e-3


@pytest.mark.parametrize("norm", NORMS)
def test_back_to_concatenated_is_exact_while_the_modalities_are_tied(norm):
    model = tiny_captioner(*CONCATENATED, norm_position=norm)
    before, outputs = {name: value.clone() for name, value in model.state_dict().items()}, all_logits(model)
    assert switch(model, JOINT) + switch(model, CONCATENATED) == []
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert largest_change(outputs, all_logits(model)) == 0


def test_back_to_concatenated_averages_what_has_moved_apart_and_says_so():
    model = tiny_captioner(*CONCATENATED)
    switch(model, JOINT)
    train_a_little(model)
    image, context = (part.key.weight.clone() for part in model.decoder.blocks[0].cross_attention.attentions.values())
    (warning,) = switch(model, CONCATENATED)
    assert "outputs change with the switch to concatenated" in warning
    assert "averaged" in warning
    torch.testing.assert_close(model.decoder.blocks[0].cross_attention.attention.key.weight, (image + context) / 2)


@pytest.mark.parametrize(("old", "new", "norm"), PAIRS)
def test_every_switch_says_whether_outputs_change(old, new, norm):
    model = tiny_captioner(*old, norm_position=norm)
    before = all_logits(model)
    warned = switch(model, new)
    assert (model.config.conditioning, model.config.fusion) == new
    changed = largest_change(before, all_logits(model)) > TOLERANCE
    assert len(warned) == changed


@pytest.mark.parametrize(("old", "new", "norm"), PAIRS)
def test_a_captioner_of_one_modality_switches_without_loss_or_says_so(old, new, norm):
    model = tiny_captioner(*old, norm_position=norm, context_encoder=None)
    before = logits(model, LOOKING)
    warned = switch(model, new)
    changed = (logits(model, LOOKING) - before).abs().max() > TOLERANCE
    from_gates_before_norms = norm == "post" and old == ("separate", "gated")
    assert len(warned) == changed == from_gates_before_norms


@pytest.mark.parametrize("mode", MODES)
def test_a_switched_captioner_survives_saving(mode, tmp_path):
    model = tiny_captioner(*(CONCATENATED if mode[1] == "serial" else ("separate", "serial")))
    switch(model, mode)
    model.save_pretrained(tmp_path)
    loaded = Captioner.from_pretrained(tmp_path)
    assert (loaded.config.conditioning, loaded.config.fusion) == mode
    assert largest_change(all_logits(model), all_logits(loaded)) == 0
    options = {"num_beams": 2, "max_new_tokens": 4}
    assert torch.equal(model.generate(**MIXED, **options), loaded.generate(**MIXED, **options))


def test_a_switch_to_the_mode_at_hand_does_nothing():
    model = tiny_captioner("separate", "gated")
    block = model.decoder.blocks[0].cross_attention
    assert switch(model, ("separate", "gated")) == []
    assert model.decoder.blocks[0].cross_attention is block


def test_a_switch_keeps_dtype_and_training_mode():
    model = tiny_captioner(*CONCATENATED).to(torch.bfloat16).train()
    switch(model, JOINT)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.decoder.blocks[0].cross_attention.training


def test_an_unknown_mode_leaves_the_captioner_as_it_was():
    model = tiny_captioner(*CONCATENATED)
    with pytest.raises(SwitchError, match="`fusion.*must be one of 'serial', .*'joint', but is 'mixed'"):
        model.switch_conditioning("separate", "mixed")
    assert (model.config.conditioning, model.config.fusion) == ("concatenated", None)
