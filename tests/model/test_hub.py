"""Checkpoints travel: pushed to the Hub, loaded by the Auto classes, with this package installed or without."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import DECODER, tiny_batch, tiny_captioner
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.hf_api import RepoUrl
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.dynamic_module_utils import get_imports

from captioner import Captioner, CaptionerConfig, CaptionerProcessor
from captioner.adopt import code_beside
from captioner.adopt.vocabulary import train_tokenizer
from captioner.model import ImageSettings, write_card
from captioner.model.model_card import model_card

INPUTS, IDS = tiny_batch()
WEIGHTS = {"config.json", "generation_config.json", "model.safetensors"}
DEPENDENCIES = {"PIL", "huggingface_hub", "numpy", "safetensors", "timm", "torch", "torchvision", "transformers"}
ALONE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "captioner":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())

import torch
from transformers import AutoModel, AutoProcessor

directory = sys.argv[1]
model = AutoModel.from_pretrained(directory, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(directory, trust_remote_code=True)
inputs = processor(images=[directory + "/photo.png"], context=["a dog"])
ids = model.generate(**inputs, num_beams=2, max_new_tokens=5)
torch.save({"ids": ids, "logits": model(**inputs, decoder_input_ids=ids).logits}, directory + "/outputs.pt")
model.switch_conditioning("separate", "joint")
model.save_pretrained(directory + "/again")
processor.save_pretrained(directory + "/again")
"""


def captioner_and_processor():
    tokenizer = train_tokenizer(["a red dog runs", "anna sees the sea"] * 2, kind="word")
    model = tiny_captioner("concatenated", decoder=DECODER | {"vocab_size": len(tokenizer)})
    settings = ImageSettings(32, 32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return model, CaptionerProcessor(settings, tokenizer, max_caption_length=12, max_context_length=8)


def save_with_code(directory):
    model, processor = captioner_and_processor()
    with code_beside(model):
        model.save_pretrained(directory)
        processor.save_pretrained(directory)
    Image.new("RGB", (40, 30), (200, 20, 30)).save(directory / "photo.png")
    return model, processor


def test_a_checkpoint_with_its_code_loads_where_the_package_is_not_installed(tmp_path, monkeypatch):
    directory = tmp_path / "captioner-with-code"
    directory.mkdir()
    model, processor = save_with_code(directory)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    done = subprocess.run([sys.executable, "-c", ALONE, str(directory)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    theirs = torch.load(directory / "outputs.pt")
    inputs = processor(images=[directory / "photo.png"], context=["a dog"])
    assert torch.equal(theirs["ids"], model.generate(**inputs, num_beams=2, max_new_tokens=5))
    assert torch.equal(theirs["logits"], model(**inputs, decoder_input_ids=theirs["ids"]).logits)
    assert json.loads((directory / "again" / "config.json").read_text())["fusion"] == "joint"
    assert {path.name for path in directory.glob("*.py")} == {path.name for path in (directory / "again").glob("*.py")}


def test_the_code_beside_a_checkpoint_needs_only_what_the_model_runs_on(tmp_path):
    save_with_code(tmp_path)
    needed = {name for file in tmp_path.glob("*.py") for name in get_imports(file)}
    assert needed - set(sys.stdlib_module_names) <= DEPENDENCIES


def test_the_auto_classes_load_the_installed_package_and_not_the_code_beside(tmp_path):
    model, _ = save_with_code(tmp_path)
    for trust in (False, True):
        options = {"trust_remote_code": trust}
        assert type(AutoConfig.from_pretrained(tmp_path, **options)) is CaptionerConfig
        assert type(AutoProcessor.from_pretrained(tmp_path, **options)) is CaptionerProcessor
        loaded = AutoModel.from_pretrained(tmp_path, **options)
        assert type(loaded) is Captioner
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_an_ordinary_checkpoint_has_no_code_even_after_one_with_it(tmp_path):
    model, processor = save_with_code(tmp_path)
    model.save_pretrained(tmp_path / "plain")
    processor.save_pretrained(tmp_path / "plain")
    assert not list((tmp_path / "plain").glob("*.py"))
    for file in ("config.json", "processor_config.json"):
        assert "auto_map" not in json.loads((tmp_path / "plain" / file).read_text())


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
