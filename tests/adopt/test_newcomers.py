"""A modality more changes nothing that a captioner says, until it is trained."""

import pytest
import torch
from adopted import save
from conftest import BERT, DECODER, MODES_AND_NORMS, NORMS, VIT, stir, tiny_captioner
from switches import (
    CONCATENATED,
    IDS,
    INPUTS,
    LOOKING,
    READING,
    TOLERANCE,
    all_logits,
    largest_change,
    logits,
    train_a_little,
)
from torch import nn
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from captioner import Captioner, CaptionerProcessor, load
from captioner.adopt import add_modality, train_tokenizer
from captioner.model import ImageSettings, SwitchError

T5 = {"model_type": "t5", "vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}


@pytest.mark.parametrize("encoder", [BERT, T5], ids=["bert", "t5"])
@pytest.mark.parametrize(("conditioning", "fusion", "norm"), MODES_AND_NORMS)
def test_an_added_context_changes_nothing_until_it_is_trained(conditioning, fusion, norm, encoder):
    model = tiny_captioner(conditioning, fusion, norm_position=norm, context_encoder=None)
    before = logits(model, LOOKING)
    add_modality(model, "context", dict(encoder))
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
    add_modality(model, "context", dict(encoder))
    stir(model.decoder)
    model.save_pretrained(tmp_path)
    loaded = Captioner.from_pretrained(tmp_path)
    assert loaded.config.decoder.ungated_modalities == ["image"]
    assert largest_change(all_logits(model), all_logits(loaded)) == 0


def test_a_gate_that_was_there_keeps_its_opening():
    model = tiny_captioner("separate", "gated", gates=0.3, context_encoder=None)
    add_modality(model, "context", dict(BERT))
    gates = model.decoder.blocks[0].cross_attention.gates
    assert {name: round(gate.opening.item(), 3) for name, gate in gates.items()} == {"image": 0.3, "context": 0.0}


@pytest.mark.parametrize("norm", NORMS)
def test_a_reading_captioner_may_learn_to_look(norm):
    model = tiny_captioner(*CONCATENATED, norm_position=norm, image_encoder=None)
    before = logits(model, READING)
    add_modality(model, "image", dict(VIT))
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
    add_modality(model, "context", reader, processor)
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
    add_modality(model, "context", shape, processor)
    assert model.config.context_encoder.vocab_size == model.config.decoder.vocab_size
    inputs = processor(context=["a red dog"])
    assert model.encode(**inputs).states["context"].shape == (1, 3, DECODER["hidden_size"])


def test_an_encoder_that_does_not_fit_leaves_model_and_processor_as_they_were():
    model, processor = looking_captioner()
    weights, shape = set(model.state_dict()), model.config.to_dict()
    with pytest.raises(SwitchError, match=r"`context_encoder.vocab_size` is 3, but the context tokenizer needs"):
        add_modality(model, "context", BERT | {"vocab_size": 3}, processor)
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
        add_modality(model, name, dict(VIT))


@pytest.mark.parametrize("family", ["vit-gpt2", "blip", "wide-blip"])
def test_an_adopted_captioner_gets_a_context_and_says_the_same(family, reader, tmp_path):
    save(family, tmp_path / family)
    model, processor = load(tmp_path / family)
    pixels = {"pixel_values": torch.randn(2, 3, 32, 32)}
    options = {"num_beams": 2, "max_new_tokens": 6}
    before, said = model(**pixels, decoder_input_ids=IDS[:2, :1]).logits, model.generate(**pixels, **options)
    add_modality(model, "context", reader, processor)
    read = pixels | processor(context=["anna bela", "carl"])
    torch.testing.assert_close(model(**read, decoder_input_ids=IDS[:2, :1]).logits, before, rtol=0, atol=TOLERANCE)
    assert torch.equal(model.generate(**read, **options), said)
    for gate in model.decoder.blocks[0].cross_attention.gates.values():
        nn.init.constant_(gate.opening, 0.5)
    assert not torch.allclose(model(**read, decoder_input_ids=IDS[:2, :1]).logits, before)
