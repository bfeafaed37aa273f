"""`captioner convert` writes what it was asked for, keeps outputs or says that it does not, and explains mistakes."""

import json

import pytest
import torch
from conftest import BERT, tiny_batch, tiny_captioner
from transformers import BertConfig, BertModel
from typer.testing import CliRunner

from captioner import CaptionerProcessor, load
from captioner.adopt import train_tokenizer
from captioner.cli.main import app
from captioner.model import ImageSettings

INPUTS, _ = tiny_batch()
LOOKING = {"pixel_values": INPUTS["pixel_values"]}
IDS = torch.tensor([[1, 4, 5]] * 3)
TOLERANCE = 1e-5


def convert(*arguments):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def one_line(result):
    return " ".join(result.output.split())


def save(directory, **options):
    """A captioner of tiny random weights in a directory, and what it computes from images alone."""
    tokenizer = train_tokenizer(["a red dog runs", "anna sees the sea"] * 2, kind="word")
    model = tiny_captioner("concatenated", decoder={"vocab_size": len(tokenizer)}, **options)
    model.save_pretrained(directory)
    settings = ImageSettings(32, 32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    CaptionerProcessor(settings, tokenizer, max_caption_length=12, max_context_length=8).save_pretrained(directory)
    return model(**LOOKING, decoder_input_ids=IDS).logits


@pytest.fixture
def source(tmp_path):
    """The directory of a captioner that looks and reads, and its outputs."""
    return tmp_path / "source", save(tmp_path / "source")


def test_a_captioner_is_written_as_it_is(source, tmp_path):
    directory, before = source
    result = convert(directory, tmp_path / "new" / "target")
    assert result.exit_code == 0, result.output
    model, _ = load(tmp_path / "new" / "target")
    assert torch.equal(model(**LOOKING, decoder_input_ids=IDS).logits, before)
    assert "Made from `source` with `captioner convert`" in (tmp_path / "new" / "target" / "README.md").read_text()
    assert not list((tmp_path / "new" / "target").glob("*.py"))


def test_fusion_alone_switches_and_keeps_outputs_where_it_can(source, tmp_path):
    directory, before = source
    result = convert(directory, tmp_path / "target", "--fusion", "joint")
    assert result.exit_code == 0, result.output
    assert "separate, joint" in one_line(result)
    assert "warning" not in result.output
    model, _ = load(tmp_path / "target")
    assert (model.config.conditioning, model.config.fusion) == ("separate", "joint")
    assert (model(**LOOKING, decoder_input_ids=IDS).logits - before).abs().max() <= TOLERANCE


def test_a_switch_that_changes_outputs_warns(source, tmp_path):
    result = convert(source[0], tmp_path / "target", "--conditioning", "separate", "--fusion", "parallel")
    assert result.exit_code == 0, result.output
    assert "warning: outputs change with the switch to parallel, train before use" in one_line(result)
    assert load(tmp_path / "target")[0].config.fusion == "parallel"


def test_a_context_is_added_with_its_tokenizer_and_outputs_stay(tmp_path):
    before = save(tmp_path / "looking", context_encoder=None)
    reader = train_tokenizer(["anna bela carl"] * 2, kind="word")
    shape = {key: value for key, value in BERT.items() if key != "model_type"}
    BertModel(BertConfig(**shape | {"vocab_size": len(reader)})).save_pretrained(tmp_path / "reader")
    reader.save_pretrained(tmp_path / "reader")
    result = convert(tmp_path / "looking", tmp_path / "target", "--add-context", tmp_path / "reader")
    assert result.exit_code == 0, result.output
    model, processor = load(tmp_path / "target")
    inputs = LOOKING | processor(context=["anna carl", "bela", None])
    assert inputs["context_input_ids"][0].tolist() == reader("anna carl")["input_ids"]
    assert (model(**inputs, decoder_input_ids=IDS).logits - before).abs().max() <= TOLERANCE
    assert (model.config.fusion, model.config.modalities) == ("gated", ["image", "context"])


def test_code_is_written_on_request(source, tmp_path):
    result = convert(source[0], tmp_path / "target", "--remote-code")
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "target" / "config.json").read_text())
    assert (tmp_path / "target" / "model.py").exists()
    assert config["auto_map"] == {"AutoConfig": "configuration.CaptionerConfig", "AutoModel": "model.Captioner"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--fusion", "mixed"],
            "one of 'serial', 'parallel', 'hierarchical', 'gated', 'joint', but is 'mixed'",
        ),
        (["--conditioning", "mixed"], "`conditioning` must be one of 'concatenated', 'separate', but is 'mixed'"),
        (["--conditioning", "concatenated", "--fusion", "joint"], "must be one of null, but is 'joint'"),
        (["--add-context", "anything"], "cannot add 'context' to a captioner of ['image', 'context']"),
    ],
)
def test_what_cannot_be_done_is_explained_and_nothing_written(options, message, source, tmp_path):
    result = convert(source[0], tmp_path / "target", *options)
    assert result.exit_code == 2
    assert message in one_line(result)
    assert not (tmp_path / "target").exists()


def test_an_encoder_that_is_not_there_is_explained(tmp_path):
    save(tmp_path / "looking", context_encoder=None)
    result = convert(tmp_path / "looking", tmp_path / "target", "--add-context", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "cannot load the pretrained part" in one_line(result)


def test_a_directory_with_something_in_it_is_not_overwritten(source, tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "precious.txt").write_text("mine")
    result = convert(source[0], tmp_path / "target")
    assert result.exit_code == 2
    assert "is there already; name a new directory" in one_line(result)
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["precious.txt"]
