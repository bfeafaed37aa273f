"""Checkpoints travel to the Hub and back, with a card that says what they are; see also `test_remote_code.py`."""

import json

import pytest
import torch
from conftest import DECODER, tiny_batch, tiny_captioner
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.hf_api import RepoUrl
from PIL import Image

from captioner import Captioner, CaptionerProcessor
from captioner.adopt import code_beside
from captioner.adopt.vocabulary import train_tokenizer
from captioner.model import ImageSettings, write_card
from captioner.model.model_card import model_card

INPUTS, IDS = tiny_batch()
WEIGHTS = {"config.json", "generation_config.json", "model.safetensors"}


def captioner_and_processor():
    tokenizer = train_tokenizer(["a red dog runs", "anna sees the sea"] * 2, kind="word")
    model = tiny_captioner("concatenated", decoder=DECODER | {"vocab_size": len(tokenizer)})
    settings = ImageSettings(32, 32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return model, CaptionerProcessor(settings, tokenizer, max_caption_length=12, max_context_length=8)


@pytest.fixture
def hub(monkeypatch):
    """A Hub of one empty repository that notes what is committed to it: name of the file → its bytes."""
    uploaded = {}

    def commit(self, repo_id, operations, **options):
        assert repo_id == "me/captioner"
        for operation in operations:
            with operation.as_file() as file:
                uploaded[operation.path_in_repo] = file.read()

    def nothing_there(*args, **options):
        raise EntryNotFoundError("no card")

    monkeypatch.setattr(HfApi, "create_repo", lambda self, *args, **options: RepoUrl("https://hf.co/me/captioner"))
    monkeypatch.setattr(HfApi, "create_commit", commit)
    monkeypatch.setattr(ModelCard, "load", nothing_there)
    return uploaded


def test_pushing_uploads_weights_tokenizers_and_card(hub):
    model, processor = captioner_and_processor()
    model.push_to_hub("me/captioner")
    assert hub.keys() == {"README.md", *WEIGHTS}
    assert "concatenated" in hub["README.md"].decode()
    processor.push_to_hub("me/captioner")
    assert {"processor_config.json", "tokenizer.json", "tokenizer_config.json"} <= hub.keys()


def test_pushing_leaves_the_card_of_a_repository_alone(hub, monkeypatch):
    monkeypatch.setattr(ModelCard, "load", lambda *args, **options: ModelCard("---\nlicense: mit\n---\nMy own words."))
    captioner_and_processor()[0].push_to_hub("me/captioner")
    assert "My own words." in hub["README.md"].decode()


def test_pushing_with_code_uploads_the_code(hub):
    model, processor = captioner_and_processor()
    with code_beside(model):
        model.push_to_hub("me/captioner")
        processor.push_to_hub("me/captioner")
    assert {"model.py", "attention.py", "configuration.py", "processor.py", "images.py"} <= hub.keys()
    assert json.loads(hub["config.json"])["auto_map"]["AutoModel"] == "model.Captioner"
    assert json.loads(hub["processor_config.json"])["auto_map"]["AutoProcessor"] == "processor.CaptionerProcessor"


def test_what_was_pushed_loads(hub, tmp_path):
    model, processor = captioner_and_processor()
    model.push_to_hub("me/captioner")
    processor.push_to_hub("me/captioner")
    for name, content in hub.items():
        (tmp_path / name).write_bytes(content)
    loaded = Captioner.from_pretrained(tmp_path)
    ids = IDS % processor.tokenizer.vocab_size
    assert torch.equal(loaded(**INPUTS, decoder_input_ids=ids).logits, model(**INPUTS, decoder_input_ids=ids).logits)


def test_the_card_says_mode_data_and_metrics(tmp_path):
    model, _ = captioner_and_processor()
    model.switch_conditioning("separate", "joint")
    write_card(tmp_path, model.config, data="scenes", metrics={"step": 500, "cider_d": 1.25, "exact_match": 0.5})
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.pipeline_tag == "image-to-text"
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {
        "cider_d": 1.25,
        "exact_match": 0.5,
    }
    for words in ("separate, joint", "Trained on scenes.", "at step 500", "| cider_d | 1.2500 |"):
        assert words in card.text


def test_a_card_without_data_and_metrics_says_so():
    text = model_card(captioner_and_processor()[0].config).text
    assert "Not stated." in text
    assert "Not measured." in text


@pytest.mark.parametrize("lacking", ["image_encoder", "context_encoder", None])
def test_the_snippet_of_the_card_runs(lacking, tmp_path, capsys, monkeypatch):
    model, processor = captioner_and_processor()
    if lacking is not None:
        vocabulary = {"vocab_size": len(processor.tokenizer)}
        model = tiny_captioner("concatenated", decoder=DECODER | vocabulary, **{lacking: None})
        if lacking == "image_encoder":
            processor.image_settings = None
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    text = model_card(model.config, name=str(tmp_path)).text
    snippet = text.split("```python\n")[1].split("```")[0]
    exec(compile(snippet, "README.md", "exec"), {})
    assert capsys.readouterr().out.count("\n") == 1
