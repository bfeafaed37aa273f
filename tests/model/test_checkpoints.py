"""Checkpoints keep every captioner to the bit: modes, backbones, context encoders, tied weights and half precision."""

import copy
import json

import pytest
import torch
from conftest import BERT, VIT, every_mode, stir, tiny_batch, tiny_captioner
from safetensors import safe_open
from transformers import AutoConfig, AutoModel

from captioner import Captioner, CaptionerConfig


def same_after_a_round_trip(model, directory, inputs, ids, **options):
    model.save_pretrained(directory)
    loaded = Captioner.from_pretrained(directory, **options).eval()
    # Weights lie in the file as it packs them; some convolutions round differently by address, a copy's are aligned.
    loaded = copy.deepcopy(loaded)
    with torch.no_grad():
        expected, actual = (m(**inputs, decoder_input_ids=ids).logits for m in (model, loaded))
    assert torch.equal(actual, expected)
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    return loaded


@every_mode
def test_a_checkpoint_gives_the_same_logits_to_the_bit(conditioning, fusion, norm, tmp_path):
    model = tiny_captioner(conditioning, fusion, norm)
    loaded = same_after_a_round_trip(model, tmp_path, *tiny_batch())
    assert (loaded.config.conditioning, loaded.config.fusion) == (conditioning, fusion)
    assert loaded.config.decoder.norm_position == norm
    assert loaded.lm_head.weight is loaded.decoder.token_embedding.weight


SWIN = {"image_size": 32, "embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2], "window_size": 4}
BACKBONES = {
    "vit with registers": {
        "name": "vit_medium_patch16_reg4_gap_256",
        "image_size": 32,
        "embed_dim": 32,
        "depth": 1,
        "num_heads": 2,
    },
    "vit with a stem": VIT | {"stem": "convolutional"},
    "swin": SWIN | {"name": "swin_tiny_patch4_window7_224"},
    "swinv2": SWIN | {"name": "swinv2_tiny_window8_256"},
    "convnext": {"name": "convnext_atto", "image_size": 32, "depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]},
    "resnet": {"name": "resnet10t", "image_size": 32, "channels": [8, 8, 16, 16]},
    "eva02": {"name": "eva02_tiny_patch14_224", "image_size": 28, "embed_dim": 32, "depth": 1, "num_heads": 2},
    "beit": {"name": "beit_base_patch16_224", "image_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2},
    "efficientnet": {"name": "test_efficientnet", "image_size": 32},
}


@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=list(BACKBONES))
def test_a_checkpoint_keeps_every_backbone_to_the_bit(backbone, tmp_path):
    model = tiny_captioner(image_encoder=backbone)
    stir(model.encoder)
    inputs, ids = tiny_batch()
    size = backbone["image_size"]
    inputs["pixel_values"] = inputs["pixel_values"][:, :, :size, :size]
    loaded = same_after_a_round_trip(model, tmp_path, inputs, ids)
    buffers = dict(model.named_buffers())
    for name, buffer in loaded.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


CONTEXTS = {
    "t5": {"model_type": "t5", "vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2},
    "roberta": BERT | {"model_type": "roberta"},
    "distilbert": {
        "model_type": "distilbert",
        "vocab_size": 30,
        "dim": 16,
        "hidden_dim": 16,
        "n_layers": 1,
        "n_heads": 2,
    },
}


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=list(CONTEXTS))
def test_a_checkpoint_keeps_every_context_encoder_to_the_bit(context, tmp_path):
    same_after_a_round_trip(tiny_captioner(context_encoder=context), tmp_path, *tiny_batch())


def test_only_safetensors_are_written_and_tied_weights_once(tmp_path):
    tiny_captioner().save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "generation_config.json", "model.safetensors"}
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        keys = set(file.keys())
    assert "decoder.token_embedding.weight" in keys
    assert "lm_head.weight" not in keys
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "captioner"


def test_untied_weights_stay_apart(tmp_path):
    model = tiny_captioner(decoder={"tie_word_embeddings": False, "head_bias": True})
    loaded = same_after_a_round_trip(model, tmp_path, *tiny_batch())
    assert not torch.equal(loaded.lm_head.weight, loaded.decoder.token_embedding.weight)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_decoder_with_every_part_of_berts_goes_round_too(norm, tmp_path):
    parts = {"embedding_norm": True, "head_transform": True, "head_bias": True, "activation": "relu"}
    same_after_a_round_trip(tiny_captioner("concatenated", None, norm, decoder=parts), tmp_path, *tiny_batch())


def test_half_precision_checkpoints_load_as_they_were(tmp_path):
    tiny_captioner().to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = Captioner.from_pretrained(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    inputs, ids = tiny_batch()
    inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
    assert loaded(**inputs, decoder_input_ids=ids, labels=ids).loss.isfinite()
    wide = Captioner.from_pretrained(tmp_path, dtype=torch.float32)
    assert {parameter.dtype for parameter in wide.parameters()} == {torch.float32}


def test_auto_classes_load_a_checkpoint(tmp_path):
    tiny_captioner().save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is CaptionerConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is Captioner
