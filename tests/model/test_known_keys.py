"""A misspelt key of a part is an error that names the nearest; what was saved loads, whatever transformers adds."""

import pytest
from conftest import BERT, DECODER, VIT
from modalities import AST

from captioner.adopt import from_parts
from captioner.adopt.pretrained import PartsError
from captioner.adopt.vocabulary import train_tokenizer
from captioner.model import CaptionerConfig, DecoderConfig

PARTS = {"image_encoder": VIT, "context_encoder": BERT, "decoder": DECODER, "encoders": {"sound": AST}}
LENGTHS = {"max_caption_length": 9, "max_context_length": 6}
WRONG = [
    ("decoder", {"layers": 12}, "`decoder` has 'layers', which is no option of it; did you mean 'num_layers'"),
    ("decoder", {"max_position": 12}, "did you mean 'max_positions'"),
    ("decoder", {"zzz": 12}, "it takes activation, attention_bias"),
    ("context_encoder", {"num_layers": 2}, "`context_encoder` has 'num_layers'.*did you mean 'num_hidden_layers'"),
    ("image_encoder", {"depht": 2}, "`image_encoder` has 'depht'.*did you mean 'depth'"),
]


@pytest.fixture(scope="module")
def words():
    return train_tokenizer(["a dog"], "word", min_frequency=1)


@pytest.mark.parametrize(("part", "key", "message"), WRONG)
def test_a_misspelt_key_of_a_part_names_the_nearest(words, part, key, message):
    with pytest.raises(PartsError, match=message):
        from_parts(**PARTS | {part: PARTS[part] | key}, tokenizer=words, **LENGTHS)


def test_a_misspelt_key_of_a_further_encoder_names_the_nearest(words):
    with pytest.raises(PartsError, match=r"`encoders.sound` has 'num_layers'.*did you mean 'num_hidden_layers'"):
        from_parts(**PARTS | {"encoders": {"sound": {**AST, "num_layers": 2}}}, tokenizer=words, **LENGTHS)


def test_names_that_transformers_has_for_the_same_are_taken(words):
    decoder = {name: value for name, value in DECODER.items() if name not in ("num_layers", "vocab_size")}
    decoder["num_hidden_layers"] = 3
    assert len(from_parts(**PARTS | {"decoder": decoder}, tokenizer=words, **LENGTHS)[0].decoder.blocks) == 3


def test_a_saved_configuration_loads_with_whatever_another_version_wrote(tmp_path):
    CaptionerConfig(image_encoder=VIT, decoder=DECODER).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"hidden_size": 32', '"hidden_size": 32, "of_tomorrow": 1'))
    assert CaptionerConfig.from_pretrained(tmp_path).decoder.of_tomorrow == 1
    assert DecoderConfig(**DECODER).num_layers == 2
