"""With `init_from`, settings of a model act, agree with the checkpoint, or are refused."""

import pytest
from conftest import BERT, VIT, tiny_captioner
from samples import TEXTS

from captioner import CaptionerProcessor
from captioner.adopt import AdoptError, assemble, train_tokenizer
from captioner.base import DataSettings, ModelSettings
from captioner.model import ImageSettings
from captioner.training import save_captioner

WORDS = {"kind": "word", "min_frequency": 1, "vocab_size": 30}
DECODER = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "max_positions": 24}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A captioner of two modalities, separate and gated, whose words were trained with `WORDS`."""
    folder = tmp_path_factory.mktemp("agreement") / "captioner"
    words = train_tokenizer(TEXTS, **WORDS)
    model = tiny_captioner("separate", "gated", decoder={"vocab_size": len(words)}, modality_order=["context", "image"])
    processor = CaptionerProcessor(ImageSettings(32, 32), words, max_caption_length=20, max_context_length=12)
    save_captioner(model, processor, folder)
    return str(folder)


def started(checkpoint, model=None, data=None):
    return assemble(ModelSettings(init_from=checkpoint, **(model or {})), DataSettings(**(data or {})), lambda: TEXTS)


AGREEING = {
    "image_encoder": dict(VIT),
    "context_encoder": {key: value for key, value in BERT.items() if key != "vocab_size"},
    "decoder": DECODER,
    "conditioning": "separate",
    "fusion": "gated",
    "modality_order": ["context", "image"],
    "dropout": 0.0,
}


@pytest.mark.parametrize("key", [None, *AGREEING])
def test_what_the_checkpoint_says_too_may_stand(key, checkpoint):
    given = AGREEING if key is None else {key: AGREEING[key]}
    if key == "fusion":
        given = given | {"conditioning": "separate"}
    model, _ = started(checkpoint, given, {"tokenizer": WORDS})
    assert model.config.fusion == "gated"


def test_where_weights_come_from_is_no_disagreement(checkpoint):
    started(checkpoint, {"image_encoder": VIT | {"pretrained": True}})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image_encoder": VIT | {"embed_dim": 64}}, "model.image_encoder.embed_dim is 64, there 32"),
        ({"context_encoder": BERT | {"hidden_size": 48}}, "model.context_encoder.hidden_size is 48, there 24"),
        ({"decoder": {"num_layers": 6}}, "model.decoder.num_layers is 6, there 2"),
        ({"decoder": {"layers": 6}}, "model.decoder.layers is 6, there None"),
        ({"conditioning": "separate", "fusion": "serial"}, "model.fusion is 'serial', there 'gated'"),
        ({"modality_order": ["image", "context", "sound"]}, "model.modality_order is"),
        ({"max_images": 4}, "model.max_images is 4, there 1"),
        ({"memory": {"image": {"pool": 2}}}, "model.memory.image is {'pool': 2}, there None"),
        ({"context_window": {"length": 8}}, "model.context_window is {'length': 8}, there None"),
        ({"encoders": {"sound": {"feature_size": 4}}}, "model.encoders.sound is .*, there None"),
        ({"dropout": 0.3}, "model.dropout is 0.3, there 0.0"),
    ],
)
def test_what_the_checkpoint_contradicts_is_refused_with_both_values(given, message, checkpoint):
    with pytest.raises(AdoptError, match=message) as error:
        started(checkpoint, given)
    assert f"`model.init_from` is {checkpoint}" in str(error.value)
    assert "\n" not in str(error.value)


def test_every_disagreement_is_named_at_once(checkpoint):
    with pytest.raises(AdoptError, match=r"num_layers is 6.*num_heads is 4.*max_images is 3"):
        started(checkpoint, {"decoder": {"num_layers": 6, "num_heads": 4}, "max_images": 3})


def test_a_further_modality_that_the_checkpoint_lacks_is_refused_and_a_name_of_another_too(checkpoint, tmp_path):
    with pytest.raises(AdoptError, match="model.encoders.sound is 'wav2vec', there None"):
        started(checkpoint, {"encoders": {"sound": "wav2vec"}})
    only_looks = tmp_path / "looks"
    words = train_tokenizer(TEXTS, **WORDS)
    model = tiny_captioner(decoder={"vocab_size": len(words)}, context_encoder=None)
    save_captioner(model, CaptionerProcessor(ImageSettings(32, 32), words, max_caption_length=20), only_looks)
    with pytest.raises(AdoptError, match="model.context_encoder is 'bert-base-uncased', there None"):
        started(str(only_looks), {"context_encoder": "bert-base-uncased"})


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (WORDS | {"vocab_size": 10}, "data.tokenizer.vocab_size is 10, there"),
        (WORDS | {"lowercase": False}, "data.tokenizer.lowercase is False, there True"),
    ],
)
def test_a_tokenizer_that_is_not_the_checkpoints_is_refused(tokenizer, message, checkpoint):
    with pytest.raises(AdoptError, match=message):
        started(checkpoint, data={"tokenizer": tokenizer})


def test_a_kind_of_tokenizer_that_the_checkpoint_does_not_have_is_refused(tmp_path):
    words = train_tokenizer(TEXTS, vocab_size=300)
    model = tiny_captioner(decoder={"vocab_size": len(words)}, context_encoder=None)
    save_captioner(model, CaptionerProcessor(ImageSettings(32, 32), words, max_caption_length=20), tmp_path / "c")
    with pytest.raises(AdoptError, match="data.tokenizer.kind is 'word', there 'bpe'"):
        started(str(tmp_path / "c"), data={"tokenizer": {"kind": "word"}})


def test_a_named_tokenizer_must_have_the_same_vocabulary(checkpoint, tmp_path):
    started(checkpoint, data={"tokenizer": checkpoint})
    train_tokenizer(["other words"], kind="word", min_frequency=1).save_pretrained(tmp_path)
    with pytest.raises(AdoptError, match="data.tokenizer has another vocabulary"):
        started(checkpoint, data={"tokenizer": str(tmp_path)})


def test_lengths_act_and_are_the_checkpoints_where_they_are_not_set(checkpoint):
    _, processor = started(checkpoint)
    assert (processor.max_caption_length, processor.max_context_length) == (20, 12)
    _, processor = started(checkpoint, data={"max_caption_length": 7, "max_context_length": 9})
    assert (processor.max_caption_length, processor.max_context_length) == (7, 9)


@pytest.mark.parametrize(("key", "most"), [("max_caption_length", 25), ("max_context_length", 17)])
def test_lengths_beyond_what_the_checkpoint_was_built_for_are_refused(key, most, checkpoint):
    with pytest.raises(AdoptError, match=f"`{key}` needs {most}; raise the one or shorten the other"):
        started(checkpoint, data={key: most})


def test_a_new_captioner_has_the_usual_lengths_where_they_are_not_set():
    shape = ModelSettings(image_encoder=VIT, decoder=DECODER | {"max_positions": 64})
    _, processor = assemble(shape, DataSettings(tokenizer=WORDS), lambda: TEXTS)
    assert (processor.max_caption_length, processor.max_context_length) == (40, 64)


def test_a_tokenizer_beside_a_pretrained_decoder_is_refused():
    with pytest.raises(AdoptError, match="a pretrained decoder comes with its own, and `model.decoder` is gpt2"):
        assemble(ModelSettings(decoder="gpt2"), DataSettings(tokenizer=WORDS), lambda: TEXTS)
