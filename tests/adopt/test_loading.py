"""A directory that is no whole captioner is refused in one line that names what is wrong with it."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from adopted import CAPTIONERS
from conftest import tiny_captioner
from safetensors.torch import load_file, save_file
from samples import photo
from typer.testing import CliRunner

from captioner import CaptionerProcessor
from captioner.adopt import AdoptError, ForeignError, load, train_tokenizer
from captioner.adopt.locating import SHIPPED
from captioner.base.directories import MARK
from captioner.cli.main import app
from captioner.model import ImageSettings
from captioner.training import save_captioner

NOISE = np.random.default_rng(0).bytes(500)


def shipped(folder):
    shutil.copytree(SHIPPED / "scenes-separate", folder)


def with_two_tokenizers(folder):
    words = train_tokenizer(["a red dog"], kind="word", min_frequency=1)
    model = tiny_captioner(decoder={"vocab_size": len(words)}, context_encoder=None)
    save_captioner(model, CaptionerProcessor(ImageSettings(32, 32), words, words, max_caption_length=20), folder)


def adopted(kind):
    def save(folder):
        for part in CAPTIONERS[kind]():
            part.save_pretrained(folder)

    return save


KINDS = {
    "ours": shipped,
    "two tokenizers": with_two_tokenizers,
    "vit-gpt2": adopted("vit-gpt2"),
    "blip": adopted("blip"),
}
DAMAGE = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "cut at the end": lambda file: file.write_bytes(file.read_bytes()[:-3]),
    "empty": lambda file: file.write_bytes(b""),
    "noise": lambda file: file.write_bytes(NOISE),
    "missing": lambda file: file.unlink(),
}
OTHER_JSON = {name: json.dumps(value) for name, value in {"{}": {}, "list": [1], "null": None, "text": "x"}.items()}
# What a captioner does without: then what config.json says is taken.
SPARE = {("generation_config.json", "missing"), ("generation_config.json", "{}"), ("README.md", None)}
SPARE |= {("tokenizer_config.json", how) for how in ("missing", "{}")}  # of an adopted one, where its class knows all


@pytest.fixture(scope="module", params=KINDS)
def captioner(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "captioner"
    KINDS[request.param](folder)
    load(folder)
    return request.param, folder


def damaged(folder, file, how):
    """The folder again, with one file damaged."""
    copy = folder.with_name("damaged")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    (copy / file).write_text(OTHER_JSON[how]) if how in OTHER_JSON else DAMAGE[how](copy / file)
    return copy


def refusal(folder):
    """What `load` says against a folder; None where it loads."""
    try:
        load(folder)
    except (AdoptError, ForeignError) as error:
        return str(error)
    return None


@pytest.mark.parametrize("how", [*DAMAGE, *OTHER_JSON])
def test_every_broken_file_is_refused_in_one_line(captioner, how):
    kind, folder = captioner
    found = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.name != MARK)
    files = [file for file in found if file.suffix in (".json", ".safetensors")]
    for file in files:
        if how in OTHER_JSON and file.suffix != ".json":
            continue
        said = refusal(damaged(folder, file, how))
        ours = kind in ("ours", "two tokenizers")
        spare = (file.name, how) in SPARE and not (ours and file.name.startswith("tokenizer"))
        if said is None:
            assert spare, f"{file} {how}"
        else:
            assert "damaged" in said, f"{file} {how}: {said}"
            assert "\n" not in said


def test_a_broken_file_is_named(captioner):
    _, folder = captioner
    for file in ("config.json", "model.safetensors", "tokenizer.json"):
        said = refusal(damaged(folder, file, "cut"))
        assert file in said or "no tokenizer that can be loaded" in said


def test_weights_of_another_captioner_are_refused_and_never_replaced_by_random_ones(captioner):
    _, folder = captioner
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    lost = next(name for name in names if "attn" in name or "attention" in name)
    wrong = {
        "lack": {name: weights[name] for name in names if name != lost},
        "have another shape for 1": weights | {names[0]: torch.zeros(3)},
        "lack .* tensors": {"a": torch.zeros(3)},
    }
    for tensors in wrong.values():
        copy = damaged(folder, "model.safetensors", "empty")
        save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises((AdoptError, ForeignError), match="the weights in .* are not those of its config.json"):
            load(copy)


def test_weights_that_have_no_place_in_one_of_ours_are_refused(tmp_path):
    shipped(tmp_path / "c")
    weights = load_file(tmp_path / "c/model.safetensors")
    save_file(weights | {"nose": torch.zeros(2)}, tmp_path / "c/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AdoptError, match=r"the weights also hold 1 \(nose\)"):
        load(tmp_path / "c")


@pytest.mark.parametrize(
    "change",
    [
        {"decoder": {"hidden_size": "wide"}},
        {"decoder": {"num_layers": 1}},
        {"decoder": []},
        {"eos_token_id": 999},
        {"image_encoder": {"name": 3}},
        {"image_encoder": "vit"},
        {"modality_order": 4},
        {"fusion": "blended"},
    ],
)
def test_wrong_values_in_a_config_are_refused_in_one_line(change, tmp_path):
    shipped(tmp_path / "damaged")
    file = tmp_path / "damaged/config.json"
    config = json.loads(file.read_text())
    for key, value in change.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    file.write_text(json.dumps(config))
    said = refusal(tmp_path / "damaged")
    assert "damaged" in said
    assert "\n" not in said


def test_token_ids_that_no_token_has_are_refused(tmp_path):
    shipped(tmp_path / "c")
    file = tmp_path / "c/generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": "end"}))
    with pytest.raises(AdoptError, match="has eos_token_id 'end', but tokens are numbers below 53"):
        load(tmp_path / "c")


def test_without_settings_of_the_search_captions_still_end(tmp_path):
    shipped(tmp_path / "c")
    (tmp_path / "c/generation_config.json").write_text("{}")
    model, processor = load(tmp_path / "c")
    assert model.generation_config.eos_token_id == processor.eos_token_id


def test_words_that_were_added_to_the_tokenizer_alone_are_one_line_of_the_command(tmp_path):
    photo().save(tmp_path / "a.png")
    model, images, words = CAPTIONERS["vit-gpt2"]()
    words.add_tokens(["<new>"])
    for part in (model, images, words):
        part.save_pretrained(tmp_path / "c")
    result = CliRunner().invoke(app, ["caption", str(tmp_path / "a.png"), "--model", str(tmp_path / "c")])
    assert result.exit_code == 2
    assert "the tokenizer needs" in " ".join(result.output.split())


def test_code_that_lies_beside_a_captioner_is_neither_run_nor_asked_for(captioner, monkeypatch, capsys):
    _, folder = captioner
    copy = damaged(folder, "config.json", "cut")
    shutil.rmtree(copy)
    shutil.copytree(folder, copy)
    ran = copy / "RAN"
    (copy / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass T: pass\n")
    for file in copy.rglob("*config.json"):
        settings = json.loads(file.read_text())
        own = {key: "T" for key in ("tokenizer_class", "image_processor_type") if key in settings}
        autos = ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoImageProcessor", "AutoProcessor")
        file.write_text(json.dumps(settings | own | {"auto_map": dict.fromkeys(autos, "evil.T")}))
    monkeypatch.setattr("builtins.input", lambda *asked: "y")
    refusal(copy)
    assert not ran.exists()
    assert "Do you wish" not in capsys.readouterr().out


def test_a_pickle_beside_a_config_runs_nothing(captioner):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(ran),)

    _, folder = captioner
    copy = damaged(folder, "model.safetensors", "missing")
    ran = copy / "ran"
    for name in ("pytorch_model.bin", "model.pkl"):
        (copy / name).write_bytes(pickle.dumps({"a": Evil()}))
    assert "\n" not in refusal(copy)
    torch.save({"a": Evil()}, copy / "pytorch_model.bin")
    assert "\n" not in refusal(copy)
    assert not ran.exists()
