"""`captioner convert --remote-code`: the room of the model, copied, is all that a captioner needs elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DECODER, tiny_captioner
from modalities import REGIONS, WAV2VEC2, regions
from samples import photo
from transformers import AutoConfig, AutoModel, AutoProcessor, Wav2Vec2FeatureExtractor
from transformers.dynamic_module_utils import get_imports
from typer.testing import CliRunner

from captioner import Captioner, CaptionerConfig, CaptionerProcessor, model
from captioner.adopt import code_beside
from captioner.cli.main import app
from captioner.model import MODES, ImageSettings, ModalityInput

ROOM = Path(model.__file__).parent
DEPENDENCIES = {"PIL", "huggingface_hub", "numpy", "safetensors", "timm", "torch", "torchvision", "transformers"}
WINDOW = {"length": 6, "overlap": 1, "opening": [2], "closing": [3]}  # the ids of [CLS] and [SEP]
SHORT = {"image": {"pool": 2, "resampler": {"latents": 3, "layers": 1, "heads": 4}}}
KINDS = {
    "context": {"attention": "topk", "block_size": 2, "blocks": 2},
    "regions": {"attention": "linear", "resampler": {"latents": 2, "layers": 1, "heads": 4}},
}
TURNED = {"positions": "rotary", "rope_parameters": {"rope_type": "linear", "factor": 2.0}, "norm": "rms"}
IDS = torch.tensor([[1, 5, 6, 7], [1, 8, 9, 4]])
ALONE = """
import json
import sys

sys.modules["captioner"] = None  # as where this package is not installed
import numpy as np
import torch
from transformers import AutoModel, AutoProcessor

for directory in sys.argv[1:]:
    model = AutoModel.from_pretrained(directory, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(directory, trust_remote_code=True)
    assert {type(own).__module__.split(".")[0] for own in (model, processor)} == {"transformers_modules"}
    given = json.loads(open(directory + "/given.json").read())
    batch = processor(**given)
    with torch.no_grad():
        logits = model(**batch, decoder_input_ids=torch.load(directory + "/ids.pt")).logits
    ids = model.generate(**batch, num_beams=2, max_new_tokens=5)
    torch.save({"batch": dict(batch), "logits": logits, "ids": ids}, directory + "/outputs.pt")
    model.switch_conditioning("separate", "serial")
    model.save_pretrained(directory + "/again")
    processor.save_pretrained(directory + "/again")
"""


def everything(mode, bpe, bert):
    """A captioner with all that one may have, and a processor with a tokenizer and an extractor for each input."""
    one_softmax = mode[1] in (None, "joint")
    captioner = tiny_captioner(
        *mode,
        decoder={"vocab_size": len(bpe)} | (TURNED if one_softmax else {}),
        encoders={"regions": dict(REGIONS), "voice": dict(WAV2VEC2)},
        memory=SHORT if one_softmax else SHORT | KINDS,
        context_window=dict(WINDOW),
        max_images=2,
    )
    further = {"regions": ModalityInput(6, 5), "voice": ModalityInput(extractor=Wav2Vec2FeatureExtractor())}
    return captioner, CaptionerProcessor(ImageSettings(32, 32), bpe, bert, 12, 30, max_images=2, further=further)


def inputs(folder):
    """Files of two samples: two images and one, a text of several windows and none, regions, a sound."""
    for name, size in (("a", (40, 30)), ("b", (30, 50)), ("c", (32, 32))):
        photo(*size).save(folder / f"{name}.png")
    np.save(folder / "regions.npy", regions(4))
    np.save(folder / "wave.npy", np.sin(np.arange(400) / 5).astype(np.float32))
    at = {name: str(folder / name) for name in ("a.png", "b.png", "c.png", "regions.npy", "wave.npy")}
    return {
        "images": [[at["a.png"], at["b.png"]], [at["c.png"]]],
        "context": ["a red dog . a cat . a red cat . a dog", None],
        "regions": [None, at["regions.npy"]],
        "voice": [at["wave.npy"], None],
    }


@pytest.fixture(scope="module")
def travellers(tmp_path_factory, bpe, bert):
    """Of each mode: a captioner, its processor, the directory with code, and what was given and computed there."""
    root, made = tmp_path_factory.mktemp("remote"), {}
    given = inputs(root)
    for mode in MODES:
        captioner, processor = everything(mode, bpe, bert)
        plain, directory = root / f"plain-{mode[1] or mode[0]}", root / f"with-code-{mode[1] or mode[0]}"
        captioner.save_pretrained(plain)
        processor.save_pretrained(plain)
        result = CliRunner().invoke(app, ["convert", str(plain), str(directory), "--remote-code"])
        assert result.exit_code == 0, result.output
        (directory / "given.json").write_text(json.dumps(given))
        torch.save(IDS, directory / "ids.pt")
        made[mode] = captioner, processor, directory
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["HF_MODULES_CACHE"] = str(root / "modules")
    command = [sys.executable, "-c", ALONE, *(str(directory) for *_, directory in made.values())]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
    assert done.returncode == 0, done.stderr
    return given, made


@pytest.mark.parametrize("mode", MODES)
def test_a_captioner_with_everything_computes_the_same_where_the_package_is_not_installed(mode, travellers):
    given, made = travellers
    captioner, processor, directory = made[mode]
    theirs, batch = torch.load(directory / "outputs.pt"), processor(**given)
    assert theirs["batch"].keys() == batch.keys() >= {"image_mask", "regions_mask", "voice_values"}
    assert all(torch.equal(theirs["batch"][name], values) for name, values in batch.items())
    assert batch["context_input_ids"].shape[1] > WINDOW["length"]
    with torch.no_grad():
        assert torch.equal(theirs["logits"], captioner(**batch, decoder_input_ids=IDS).logits)
    assert torch.equal(theirs["ids"], captioner.generate(**batch, num_beams=2, max_new_tokens=5))


def test_the_copied_code_switches_modes_and_copies_itself(travellers):
    for *_, directory in travellers[1].values():
        assert json.loads((directory / "again" / "config.json").read_text())["fusion"] == "serial"
        again = {path.name: path.read_bytes() for path in (directory / "again").glob("*.py")}
        assert again == {path.name: path.read_bytes() for path in directory.glob("*.py")}


def test_every_copied_file_is_one_of_the_room_of_the_model(travellers):
    for *_, directory in travellers[1].values():
        copied = list(directory.rglob("*.py"))
        assert {"model.py", "processor.py", "modes.py", "windows.py", "reduction.py"} <= {file.name for file in copied}
        for file in copied:
            assert file.read_bytes() == (ROOM / file.name).read_bytes()


def test_the_code_beside_a_checkpoint_needs_only_what_the_model_runs_on(travellers):
    needed = {
        name for *_, folder in travellers[1].values() for file in folder.glob("*.py") for name in get_imports(file)
    }
    assert needed - set(sys.stdlib_module_names) <= DEPENDENCIES


def test_the_auto_classes_load_the_installed_package_and_not_the_code_beside(travellers):
    captioner, _, directory = travellers[1]["concatenated", None]
    for trust in (False, True):
        options = {"trust_remote_code": trust}
        assert type(AutoConfig.from_pretrained(directory, **options)) is CaptionerConfig
        assert type(AutoProcessor.from_pretrained(directory, **options)) is CaptionerProcessor
        loaded = AutoModel.from_pretrained(directory, **options)
        assert type(loaded) is Captioner
        assert all(torch.equal(value, captioner.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_an_ordinary_checkpoint_has_no_code_even_after_one_with_it(bpe, tmp_path):
    captioner = tiny_captioner(decoder=DECODER | {"vocab_size": len(bpe)})
    processor = CaptionerProcessor(ImageSettings(32, 32), bpe)
    for directory in (tmp_path / "with code", tmp_path / "plain"):
        if directory.name == "plain":
            captioner.save_pretrained(directory)
            processor.save_pretrained(directory)
        else:
            with code_beside(captioner):
                captioner.save_pretrained(directory)
                processor.save_pretrained(directory)
    assert list((tmp_path / "with code").glob("*.py"))
    assert not list((tmp_path / "plain").glob("*.py"))
    for file in ("config.json", "processor_config.json"):
        assert "auto_map" not in json.loads((tmp_path / "plain" / file).read_text())
