"""The commands as a person types them: what they print, write and refuse, and with which exit code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from runs import launch
from typer.testing import CliRunner

from captioner.base import load_settings
from captioner.cli.main import app
from captioner.scenes import Scenes

ROOT = Path(__file__).parents[2]
TINY = [
    "model.image_encoder={name: vit_tiny_patch16_224, image_size: 64, embed_dim: 32, depth: 1, num_heads: 2}",
    "model.decoder={hidden_size: 32, num_layers: 1, num_heads: 2, intermediate_size: 32, max_positions: 28}",
    "data.scenes=64",
    "training.max_steps=2",
    "training.eval_steps=2",
    "training.max_eval_samples=4",
    "training.dataloader_num_workers=0",
]


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def text(result):
    """What was printed, in one line: messages may be wrapped."""
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A captioner that `captioner train` has just made."""
    directory = tmp_path_factory.mktemp("run")
    result = run("train", ROOT / "configs/scenes.yaml", f"training.output_dir={directory}", *TINY)
    assert result.exit_code == 0, result.output
    return directory / "best"


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "deeper").mkdir(parents=True)
    for i, name in enumerate(["b.png", "a b.jpg", "deeper/c.png"]):
        Image.fromarray(Scenes("test", [2], 3)[i]["image"]).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    return folder


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("module", ["captioner", "captioner.cli"])
def test_importing_loads_neither_torch_nor_timm_nor_transformers(module):
    heavy = "{'torch', 'timm', 'transformers', 'datasets', 'accelerate'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["caption", "--help"]])
def test_help_loads_neither_torch_nor_timm_nor_transformers(arguments):
    heavy = "{'torch', 'timm', 'transformers', 'datasets', 'accelerate'}"
    code = f"import sys, captioner.cli\ntry: captioner.cli.main()\nfinally: print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_lists_the_commands():
    result = run("--help")
    assert result.exit_code == 0
    for command in ("demo", "train", "caption", "evaluate", "score"):
        assert command in result.output


def test_captions_go_to_the_terminal_a_line_per_image(model, pictures):
    result = run("caption", pictures, "--model", model, "--num-workers", 0, "--max-new-tokens", 4)
    assert result.exit_code == 0, result.output
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == [
        str(pictures / "a b.jpg"),
        str(pictures / "b.png"),
    ]


def test_captions_go_to_a_file_a_line_per_image(model, pictures, tmp_path):
    output = tmp_path / "captions.jsonl"
    context = ["--context", "the red circle anna . the blue star otto"]
    result = run("caption", pictures, "--recursive", "--model", model, *context, "--beams", 2, "--output", output)
    assert result.exit_code == 0, result.output
    records = lines(output)
    assert [set(record) for record in records] == [{"image", "caption"}] * 3
    assert records[2]["image"] == str(pictures / "deeper/c.png")
    assert "3 of 3 images captioned" in text(result)


def test_several_captions_per_image_are_all_written(model, pictures, tmp_path):
    output = tmp_path / "captions.jsonl"
    result = run("caption", pictures / "b.png", "--model", model, "--captions", 3, "--beams", 3, "--output", output)
    assert result.exit_code == 0, result.output
    (record,) = lines(output)
    assert len(record["captions"]) == 3
    assert record["caption"] == record["captions"][0]


def test_a_bad_image_is_a_record_and_the_others_are_captioned(model, pictures, tmp_path):
    (pictures / "aa.jpg").write_bytes(b"no picture at all")
    (pictures / "bb.jpg").write_bytes((pictures / "a b.jpg").read_bytes()[:300])
    output = tmp_path / "captions.jsonl"
    result = run("caption", pictures, "--model", model, "--batch-size", 2, "--output", output)
    assert result.exit_code == 1
    records = {Path(record["image"]).name: record for record in lines(output)}
    assert list(records) == ["a b.jpg", "aa.jpg", "b.png", "bb.jpg"]
    assert [name for name, record in records.items() if "error" in record] == ["aa.jpg", "bb.jpg"]
    assert "2 of 4 images could not be read; the others are captioned" in text(result)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.png", "--model", "scenes"], "there is no file or folder 'none.png'"),
        (["{pictures}/deeper", "--model", "no/such"], "cannot load a captioner from 'no/such'"),
        (["{pictures}", "--model", "m", "--captions", "4"], "`--captions` is 4, but a search with 3 beams finds 3"),
        (["{pictures}", "--model", "m", "--output", "{pictures}"], "`--output` is the folder"),
        (["{pictures}", "--model", "m", "--output", "{pictures}/no/x.jsonl"], "which is no folder; make it first"),
        (["{empty}", "--model", "m"], "no images in"),
    ],
)
def test_wrong_use_of_caption_is_one_line_and_exit_code_2(arguments, message, pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    filled = [word.format(pictures=pictures, empty=tmp_path / "empty") for word in arguments]
    result = run("caption", *filled)
    assert result.exit_code == 2
    assert message in text(result)
    assert "Traceback" not in result.output


def test_a_context_for_a_captioner_that_cannot_read_is_refused(tmp_path, pictures):
    directory = tmp_path / "looks"
    trained = run(
        "train", ROOT / "configs/scenes.yaml", f"training.output_dir={directory}", *TINY, "model.context_encoder=null",
        "data.levels=[1]",
    )  # fmt: skip
    assert trained.exit_code == 0, trained.output
    result = run("caption", pictures, "--model", directory / "best", "--context", "the red circle anna")
    assert result.exit_code == 2
    assert "this captioner has no context encoder; leave it out" in text(result)


@pytest.mark.parametrize("form", ["argument", "option"])
def test_train_refuses_an_unknown_key_and_names_the_nearest(form):
    config = ROOT / "configs/demo.yaml"
    start = ["train", config] if form == "argument" else ["train", "--config", config]
    result = run(*start, "training.lerning_rate=1")
    assert result.exit_code == 2
    assert "did you mean 'training.learning_rate'?" in text(result)


def test_train_without_a_config_says_what_to_give():
    result = run("train", "training.max_steps=1")
    assert result.exit_code == 2
    assert "give one YAML config" in text(result)


def test_evaluate_captions_a_split_and_scores_it(model, tmp_path):
    output = tmp_path / "captions.jsonl"
    options = ["--config", ROOT / "configs/scenes.yaml", "--num-workers", 0, "--output", output]
    result = run("evaluate", "data.limit=5", "--model", model, *options)
    assert result.exit_code == 0, result.output
    records = lines(output)
    assert len(records) == 5
    assert "cider_d" in result.output
    references = tmp_path / "references.jsonl"
    references.write_text("\n".join(json.dumps({"id": r["id"], "captions": r["captions"]}) for r in reversed(records)))
    scored = run("score", output, references, "--json")
    assert scored.exit_code == 0
    expected = {name: f"{value:.4f}" for name, value in json.loads(scored.stdout).items()}
    for name, value in expected.items():
        assert any(name in line and value in line for line in result.output.splitlines())


def test_two_processes_evaluate_as_one_does(model, tmp_path):
    both, alone = tmp_path / "both.jsonl", tmp_path / "alone.jsonl"
    options = ["--config", ROOT / "configs/scenes.yaml", "--num-workers", 0, "--output"]
    command = ["evaluate", "data.limit=5", "generation.num_beams=1", "--model", model, *options]
    printed = launch("-m", "captioner", *map(str, [*command, both]))
    assert printed.count("cider_d") == 1
    assert run(*command, alone).exit_code == 0
    assert len(lines(both)) == 5
    assert lines(both) == lines(alone)


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ('{"id": 1, "caption": "a"}', '{"id": 2, "captions": ["a"]}', "the ids must be the same in both files"),
        ('{"id": 1}', '{"id": 1, "captions": ["a"]}', "line 1 must be an object with `id` and `caption` (a str)"),
        ("[", '{"id": 1, "captions": ["a"]}', "line 1 is not JSON"),
        ("", '{"id": 1, "captions": ["a"]}', "has no lines"),
        ('{"id": 1, "caption": "a"}\n{"id": 1, "caption": "b"}', "{}", "the id '1' is there twice"),
    ],
)
def test_score_explains_files_that_do_not_fit(tmp_path, predictions, references, message):
    for name, content in (("p", predictions), ("r", references)):
        (tmp_path / name).write_text(content)
    result = run("score", tmp_path / "p", tmp_path / "r")
    assert result.exit_code == 2
    assert message in text(result)


def test_the_settings_of_a_run_can_train_it_again(model):
    settings = load_settings(model.parent / "settings.yaml")
    assert settings.training.max_steps == 2
