"""Switching modes and adding modalities keeps what a captioner has learnt, or says that it does not."""

import warnings
from itertools import permutations

import pytest
import torch
from adopted import save
from conftest import BERT, DECODER, MODES_AND_NORMS, NORMS, VIT, stir, tiny_batch, tiny_captioner
from torch import nn
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from captioner import Captioner, CaptionerProcessor, load
from captioner.adopt.switching import SwitchError
from captioner.adopt.vocabulary import train_tokenizer
from captioner.model import MODES, ImageSettings

TOLERANCE = 1e-5
JOINT = ("separate", "joint")
CONCATENATED = ("concatenated",)
T5 = {"model_type": "t5", "vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
PAIRS = [(old, new, norm) for old, new in permutations(MODES, 2) for norm in NORMS]
INPUTS, IDS = tiny_batch(samples=4)
LOOKING = {"pixel_values": INPUTS["pixel_values"]}
READING = {name: value for name, value in INPUTS.items() if name != "pixel_values"}
MIXED = INPUTS | {
    "image_mask": torch.tensor([True, False, True, True]),
    "context_attention_mask": INPUTS["context_attention_mask"] * torch.tensor([1, 1, 0, 1])[:, None],
}
BATCHES = {"both": INPUTS, "image only": LOOKING, "context only": READING, "mixed": MIXED}


@torch.no_grad()
def logits(model, inputs):
    return model.eval()(**inputs, decoder_input_ids=IDS).logits


def all_logits(model, batches=BATCHES):
    return {name: logits(model, inputs) for name, inputs in batches.items()}


def largest_change(before, after):
    return max((before[name] - after[name]).abs().max().item() for name in before)


def switch(model, mode):
    """Switch and return what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.switch_conditioning(*mode)
    return [str(warning.message) for warning in caught]


def train_a_little(model, steps=3):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        model(**INPUTS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


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


@pytest.mark.parametrize("encoder", [BERT, T5], ids=["bert", "t5"])
@pytest.mark.parametrize(("conditioning", "fusion", "norm"), MODES_AND_NORMS)
def test_an_added_context_changes_nothing_until_it_is_trained(conditioning, fusion, norm, encoder):
    model = tiny_captioner(conditioning, fusion, norm_position=norm, context_encoder=None)
    before = logits(model, LOOKING)
    model.add_modality("context", dict(encoder))
    for inputs in (LOOKING, INPUTS):
        assert (logits(model, inputs) - before).abs().max() <= TOLERANCE
    assert (model.config.conditioning, model.config.fusion) == ("separate", "gated")
    assert model.config.modalities == ["image", "context"]
    train_a_little(model)
    assert (logits(model, INPUTS) - logits(model, LOOKING)).abs().max() > 1e-3


@pytest.mark.parametrize("encoder", [BERT, T5], ids=["bert", "t5"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_captioner_with_an_added_context_survives_saving(norm, encoder, tmp_path):
    model = tiny_captioner(*CONCATENATED, norm_position=norm, context_encoder=None)
    model.add_modality("context", dict(encoder))
    stir(model.decoder)
    model.save_pretrained(tmp_path)
    loaded = Captioner.from_pretrained(tmp_path)
    assert loaded.config.decoder.ungated_modalities == ["image"]
    assert largest_change(all_logits(model), all_logits(loaded)) == 0


def test_a_gate_that_was_there_keeps_its_opening():
    model = tiny_captioner("separate", "gated", gates=0.3, context_encoder=None)
    model.add_modality("context", dict(BERT))
    gates = model.decoder.blocks[0].cross_attention.gates
    assert {name: round(gate.opening.item(), 3) for name, gate in gates.items()} == {"image": 0.3, "context": 0.0}


@pytest.mark.parametrize("norm", NORMS)
def test_a_reading_captioner_may_learn_to_look(norm):
    model = tiny_captioner(*CONCATENATED, norm_position=norm, image_encoder=None)
    before = logits(model, READING)
    model.add_modality("image", dict(VIT))
    assert (logits(model, INPUTS) - before).abs().max() <= TOLERANCE
    stir(model.decoder)
    assert (logits(model, INPUTS) - logits(model, READING)).abs().max() > 1e-3


WORDS = ["a red dog runs", "anna sees the sea"] * 2


@pytest.fixture
def reader(tmp_path):
    """A directory with a pretrained text encoder and its tokenizer, as on the Hub."""
    tokenizer = train_tokenizer(["anna bela carl dora emil"] * 2, kind="word")
    shape = {key: value for key, value in BERT.items() if key != "model_type"} | {"vocab_size": len(tokenizer)}
    torch.manual_seed(7)
    encoder = BertModel(BertConfig(**shape))
    encoder.save_pretrained(tmp_path / "reader")
    tokenizer.save_pretrained(tmp_path / "reader")
    return str(tmp_path / "reader")


def looking_captioner():
    tokenizer = train_tokenizer(WORDS, kind="word")
    processor = CaptionerProcessor(ImageSettings(32, 32), tokenizer, max_caption_length=12)
    model = tiny_captioner(*CONCATENATED, context_encoder=None, decoder={"vocab_size": len(tokenizer)})
    return model, processor


def test_a_pretrained_encoder_brings_its_weights_and_its_tokenizer(reader):
    model, processor = looking_captioner()
    model.add_modality("context", reader, processor)
    processor.check_model(model.config)
    assert processor.max_context_length == BERT["max_position_embeddings"]
    inputs = processor(context=["anna carl"])
    theirs = AutoTokenizer.from_pretrained(reader)("anna carl", return_tensors="pt")
    assert torch.equal(inputs["context_input_ids"], theirs["input_ids"])
    source = AutoModel.from_pretrained(reader).eval()
    encoded = model.encoder.context(inputs["context_input_ids"], inputs["context_attention_mask"])
    torch.testing.assert_close(encoded, source(**theirs).last_hidden_state)


def test_a_new_encoder_reads_with_the_tokenizer_of_the_captions():
    model, processor = looking_captioner()
    shape = {key: value for key, value in BERT.items() if key != "vocab_size"}
    model.add_modality("context", shape, processor)
    assert model.config.context_encoder.vocab_size == model.config.decoder.vocab_size
    inputs = processor(context=["a red dog"])
    assert model.encode(**inputs).states["context"].shape == (1, 3, DECODER["hidden_size"])


def test_an_encoder_that_does_not_fit_leaves_model_and_processor_as_they_were():
    model, processor = looking_captioner()
    weights, shape = set(model.state_dict()), model.config.to_dict()
    with pytest.raises(SwitchError, match=r"`context_encoder.vocab_size` is 3, but the context tokenizer needs"):
        model.add_modality("context", BERT | {"vocab_size": 3}, processor)
    assert (set(model.state_dict()), model.config.to_dict()) == (weights, shape)
    assert (processor.context_tokenizer, processor.max_context_length) == (None, 64)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("image", r"cannot add 'image' to a captioner of \['image'\]: it is there already"),
        ("sound", r"`encoders.sound` must be a dict with 'model_type' .* or 'feature_size'"),
        ("captions", r"`encoders` may have names like 'sound' \(none of"),
    ],
)
def test_a_modality_that_cannot_be_added_is_refused(name, message):
    model = tiny_captioner(*CONCATENATED, context_encoder=None)
    with pytest.raises(SwitchError, match=message):
        model.add_modality(name, dict(VIT))


@pytest.mark.parametrize("family", ["vit-gpt2", "blip", "wide-blip"])
def test_an_adopted_captioner_gets_a_context_and_says_the_same(family, reader, tmp_path):
    save(family, tmp_path / family)
    model, processor = load(tmp_path / family)
    pixels = {"pixel_values": torch.randn(2, 3, 32, 32)}
    options = {"num_beams": 2, "max_new_tokens": 6}
    before, said = model(**pixels, decoder_input_ids=IDS[:2, :1]).logits, model.generate(**pixels, **options)
    model.add_modality("context", reader, processor)
    read = pixels | processor(context=["anna bela", "carl"])
    torch.testing.assert_close(model(**read, decoder_input_ids=IDS[:2, :1]).logits, before, rtol=0, atol=TOLERANCE)
    assert torch.equal(model.generate(**read, **options), said)
    for gate in model.decoder.blocks[0].cross_attention.gates.values():
        nn.init.constant_(gate.opening, 0.5)
    assert not torch.allclose(model(**read, decoder_input_ids=IDS[:2, :1]).logits, before)
