"""Captioners that cannot become ours are refused, with what is supported."""

import json

import pytest
from adopted import CAPTIONERS, END, bert, blip, encoder_decoder, gpt2, vit
from transformers import (
    BlipForQuestionAnswering,
    CLIPImageProcessor,
    RobertaConfig,
    SwinConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTImageProcessor,
)

from captioner import load
from captioner.adopt import DEFAULT_MODEL, AdoptError, FamilyError, ForeignError, shipped_names
from captioner.adopt.foreign import image_settings


def test_without_a_model_and_without_a_network_the_error_names_what_works():
    with pytest.raises(AdoptError) as error:
        load()
    for name in (DEFAULT_MODEL, "directory", *shipped_names(), "captioner demo"):
        assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("config", [{"model_type": "git"}, {"model_type": "nonsense"}, {"architecture": "resnet50"}])
def test_an_unsupported_architecture_is_told_what_is_supported(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(AdoptError) as error:
        load(tmp_path)
    for name in ("VisionEncoderDecoderModel", "BlipForConditionalGeneration", "deit or vit", "bert or gpt2"):
        assert name in str(error.value)


def test_an_unsupported_encoder_is_told_what_is_supported(tmp_path):
    VisionEncoderDecoderConfig.from_encoder_decoder_configs(SwinConfig(), gpt2()).save_pretrained(tmp_path)
    with pytest.raises(ForeignError, match="pairs 'swin' with 'gpt2'.*deit or vit"):
        load(tmp_path)


def test_another_head_of_blip_is_refused(tmp_path):
    BlipForQuestionAnswering(blip().config).save_pretrained(tmp_path)
    with pytest.raises(ForeignError, match="BlipForQuestionAnswering; .*BlipForConditionalGeneration"):
        load(tmp_path)


@pytest.mark.parametrize("missing", range(3))
def test_a_missing_part_is_named(missing, tmp_path):
    parts = CAPTIONERS["vit-gpt2"]()
    parts[0].config.save_pretrained(tmp_path)
    for part in parts[:missing] + parts[missing + 1 :]:
        part.save_pretrained(tmp_path)
    with pytest.raises((AdoptError, ForeignError), match=("the model", "no image processor", "no tokenizer")[missing]):
        load(tmp_path)


def test_decoders_that_ours_cannot_express_are_refused(tmp_path):
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vit(), bert(RobertaConfig, hidden_act="relu"))
    for part in (VisionEncoderDecoderModel(config), *CAPTIONERS["deit-roberta"]()[1:]):
        part.save_pretrained(tmp_path)
    with pytest.raises(FamilyError, match="'gelu', as in its head, but is 'relu'"):
        load(tmp_path)


def test_image_encoders_that_ours_cannot_express_are_refused(tmp_path):
    model = encoder_decoder(vit(hidden_act="gelu_10"), gpt2(), END, END)
    for part in (model, *CAPTIONERS["vit-gpt2"]()[1:]):
        part.save_pretrained(tmp_path)
    with pytest.raises(ForeignError, match="`hidden_act` of the image encoder .* but is 'gelu_10'"):
        load(tmp_path)


def test_an_image_processor_that_ours_cannot_follow_is_refused():
    with pytest.raises(ForeignError, match="shortest_edge"):
        image_settings(CLIPImageProcessor())
    with pytest.raises(ForeignError, match="'rescale_factor': 1.0"):
        image_settings(ViTImageProcessor(rescale_factor=1.0))
