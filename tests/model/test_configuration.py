"""A configuration survives JSON, and a wrong one says what to change."""

import pytest
from conftest import tiny_config

from captioner import CaptionerConfig


def test_a_configuration_survives_json(tmp_path):
    config = tiny_config("separate", None, modality_order=["context", "image"], decoder_start_token_id=3)
    config.save_pretrained(tmp_path)
    loaded = CaptionerConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.fusion == "serial"
    assert loaded.context_encoder.hidden_size == 24
    assert loaded.modalities == ["context", "image"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conditioning": "both"}, "`conditioning` must be one of 'concatenated', 'separate', but is 'both'"),
        (
            {"conditioning": "separate", "fusion": "stacked"},
            r"`fusion \(with conditioning='separate'\)` must be one of 'serial', .*'joint', but is 'stacked'",
        ),
        (
            {"fusion": "serial"},
            r"`fusion \(with conditioning='concatenated'\)` must be one of null, but is 'serial'",
        ),
        (
            {"modality_order": ["image"]},
            r"`modality_order` must list each of \['context', 'image'\] once, but is \['image'\]",
        ),
        ({"modality_order": ["image", "image"]}, "`modality_order` must list each"),
        (
            {"decoder": {"hidden_size": 30, "num_heads": 4}},
            "`decoder.hidden_size` must be a multiple of `decoder.num_heads`, but is 30 with 4 heads",
        ),
        (
            {"norm_position": "middle"},
            "`decoder.norm_position` must be one of 'pre', 'post', but is 'middle'",
        ),
        (
            {"image_encoder": {"image_size": 32}},
            r"`image_encoder` must have the key 'name' \(a timm model\), but has \['image_size'\]",
        ),
        (
            {"image_encoder": None, "context_encoder": None},
            "a captioner needs one of `image_encoder`, `context_encoder` and `encoders`, but has none",
        ),
    ],
)
def test_a_wrong_configuration_says_what_to_change(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**options)
