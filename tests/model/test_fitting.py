"""A processor tells which models it fits, and everything that does not fit."""

import pytest
from transformers import BertConfig

from captioner import CaptionerConfig, CaptionerProcessor


def config(**changes) -> CaptionerConfig:
    given = {
        "image_encoder": {"name": "resnet18", "image_size": [8, 12]},
        "context_encoder": {"model_type": "bert", "vocab_size": 11, "max_position_embeddings": 6},
        "decoder": {"vocab_size": 300, "max_positions": 9},
    }
    return CaptionerConfig(**given | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"eos_token_id": [7, 2]},
        {"pad_token_id": None},
        {"image_encoder": {"name": "resnet18"}},
        {"image_encoder": {"name": "vit_tiny_patch16_224", "image_size": 64, "dynamic_img_size": True}},
        {"context_encoder": None},
        {"context_encoder": {"model_type": "t5", "vocab_size": 11}},
    ],
)
def test_a_model_that_fits_is_accepted(processor, changes):
    processor.check_model(config(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"decoder": {"vocab_size": 299, "max_positions": 9}},
            "`decoder.vocab_size` is 299, but the tokenizer needs 300;",
        ),
        (
            {"decoder": {"vocab_size": 300, "max_positions": 8}},
            "`decoder.max_positions` is 8, but `max_caption_length` n",
        ),
        (
            {"eos_token_id": [7]},
            "`eos_token_id` is [7] in the config but 2 in the processor; make them equal",
        ),
        ({"pad_token_id": 2}, "`pad_token_id` is 2 in the config but 0 in the processor; make them equal"),
        (
            {"decoder_start_token_id": 0},
            "`decoder_start_token_id` is 0 in the config but 1 in the processor; make",
        ),
        (
            {"image_encoder": None},
            "the model has no image encoder; set the processor's `image_settings` to None",
        ),
        (
            {"image_encoder": {"name": "resnet18", "image_size": 12}},
            "`image_encoder.image_size` is (12, 12), but `image_settings` are (8, 12); make them equal",
        ),
        (
            {"context_encoder": BertConfig(vocab_size=10, max_position_embeddings=6)},
            "`context_encoder.vocab_size` is 10, but the context tokenizer needs 11; raise the one or",
        ),
        (
            {"context_encoder": BertConfig(vocab_size=11, max_position_embeddings=5)},
            "`context_encoder.max_position_embeddings` is 5, but `max_context_length` needs 6;",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_explained(processor, changes, message):
    with pytest.raises(ValueError, match=r"^the processor does not fit the model: ") as caught:
        processor.check_model(config(**changes))
    assert message in str(caught.value)


def test_every_misfit_is_named_at_once(bpe):
    reader = CaptionerProcessor(None, bpe)
    with pytest.raises(ValueError) as caught:
        reader.check_model(config(pad_token_id=9))
    parts = str(caught.value).split("; ")
    assert "give `image_settings=ImageSettings.for_encoder(…)`" in parts
    assert sum(" is " in part for part in parts) == 4
