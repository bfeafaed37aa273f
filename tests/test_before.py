"""What the version before the rooms wrote goes on working: `tests/before` holds one of each kind, made by it.

A run of four steps with its checkpoint, best and last captioner; the same captioner with its own code; a captioning
that was killed after the first of four images; a caption store; and what the captioner computed then.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from captioner import load
from captioner.cli.main import app

BEFORE = Path(__file__).parent / "before"


@pytest.fixture
def before(tmp_path, monkeypatch):
    shutil.copytree(BEFORE, tmp_path / "before")
    monkeypatch.chdir(tmp_path / "before")
    return tmp_path / "before"


def batch_of(processor):
    images = [Image.open(BEFORE / f"table/img/{i}.png") for i in (0, 2)]
    return processor(
        images=images,
        context=["the red square anna", "the blue square anna"],
        captions=[["a red square"], ["a blue square"]],
    )


def same_as_then(model, processor):
    expected, batch = load_file(BEFORE / "expected.safetensors"), batch_of(processor)
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, expected["logits"], rtol=1e-4, atol=1e-5)
    sources = {name: x for name, x in batch.items() if not name.startswith("decoder") and name != "labels"}
    assert torch.equal(model.generate(**sources, num_beams=2, max_new_tokens=8), expected["ids"])


@pytest.mark.parametrize("place", ["run/best", "remote"])
def test_a_captioner_computes_what_it_did(place):
    same_as_then(*load(BEFORE / place))


ALONE = """
import sys

sys.modules["captioner"] = None  # as where this package is not installed
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

model = AutoModel.from_pretrained("remote", trust_remote_code=True).eval()
assert type(model).__module__.startswith("transformers_modules")
with torch.no_grad():
    save_file({"logits": model(**load_file(sys.argv[1])).logits.contiguous()}, sys.argv[2])
"""


def test_a_captioner_with_its_own_code_computes_what_it_did(before):
    _, processor = load("run/best")
    save_file({name: x.contiguous() for name, x in batch_of(processor).items()}, "batch.safetensors")
    subprocess.run([sys.executable, "-c", ALONE, "batch.safetensors", "alone.safetensors"], check=True)
    torch.testing.assert_close(
        load_file("alone.safetensors")["logits"], load_file("expected.safetensors")["logits"], rtol=1e-4, atol=1e-5
    )


def run(*command):
    result = CliRunner().invoke(app, [str(word) for word in command])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_run_goes_on_from_its_checkpoint(before):
    run("train", "run.yaml", "--resume", "training.max_steps=6")
    steps = [json.loads(line)["step"] for line in (before / "run/metrics.jsonl").read_text().splitlines()]
    assert max(steps) == 6
    assert (before / "run/checkpoint-6").is_dir()


def test_a_killed_captioning_goes_on_with_what_it_had(before):
    first = (before / "captions.jsonl.parts/1-of-1.0.jsonl").read_text()
    options = ["--output", "captions.jsonl", "--batch-size", "1", "--num-workers", "0", "--beams", "1"]
    run("caption", "table/img", "--model", "run/best", *options)
    records = [json.loads(line) for line in (before / "captions.jsonl").read_text().splitlines()]
    assert [record["image"] for record in records] == [f"table/img/{i}.png" for i in range(4)]
    assert records[0]["caption"] == json.loads(first)["caption"]


def test_a_caption_store_is_read(before):
    run("caption", "table/img", "--model", "run/best", "--retrieve", "store", "--output", "with.jsonl", "--beams", "1")
    records = [json.loads(line) for line in (before / "with.jsonl").read_text().splitlines()]
    assert all("square" in record["context"] for record in records)
