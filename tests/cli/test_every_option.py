"""Every option of every command is accounted for: it acts, or there is a use in which it is refused."""

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from captioner.cli.caption_options import SearchGroup
from captioner.cli.main import app

# option of `caption` that changes the search → a value that is not its default, and what must stand beside it
SEARCHED = {
    "beams": (2, {}),
    "captions": (2, {}),
    "max_new_tokens": (5, {}),
    "min_new_tokens": (2, {}),
    "length_penalty": (2.0, {}),
    "no_repeat_ngram_size": (2, {}),
    "repetition_penalty": (1.5, {}),
    "bad_words": (["red"], {}),
    "force_words": (["red"], {}),
    "num_beam_groups": (3, {"diversity_penalty": 0.5}),
    "diversity_penalty": (0.5, {"num_beam_groups": 3}),
    "temperature": (0.5, {}),
    "top_k": (5, {}),
    "top_p": (0.5, {}),
}
# command → option → words with which it would do nothing or contradict; they are refused
REFUSED = {
    "caption": {
        "recursive": ["a.png", "-r"],
        "image_column": ["a.png", "--image-column", "x"],
        "split": ["a.png", "--split", "x"],
        "limit": ["--context", "x", "--limit", "1"],
        "max_pixels": ["--context", "x", "--max-pixels", "9"],
        "context_file": ["a.png", "--context-file", "a.txt"],
        "context_column": ["a.png", "--context-column", "no"],
        "context_ext": ["a.png", "--context-ext", ".txt", "--context", "x"],
        "context_metadata": ["a.png", "--context-metadata", "--context", "x"],
        "retrieve": ["a.png", "--retrieve", "no-store"],
        "neighbours": ["a.png", "--neighbours", "2"],
        "seed": ["a.png", "--seed", "2"],
        "output": ["a.png", "--output", "o.xml"],
        "sidecar": ["a.png", "--sidecar", "png"],
        "existing": ["a.png", "--existing", "fail"],
        "overwrite": ["a.png", "--overwrite"],
        "scores": ["a.png", "--scores", "--sidecar", "txt"],
        "errors": ["a.png", "--errors", "o.xml"],
        "as_json": ["a.png", "--json", "--output", "o.csv"],
        "shard": ["a.png", "--shard", "1/2"],
        "merge": ["--merge", "--output", "o.csv", "--beams", "2"],
        "device": ["a.png", "--device", "gpu"],
        "dtype": ["a.png", "--dtype", "int8"],
        "layout": ["a.png", "--layout", "huge"],
    },
    "attend": {
        "further": ["a.png", "--further", "x"],
        "output": ["a.png", "--output", "a.png"],
        "beams": ["a.png", "--caption", "x", "--beams", "2"],
        "max_new_tokens": ["a.png", "--caption", "x", "--max-new-tokens", "2"],
    },
    "index": {
        "weights": [".", "--model", "scenes-separate", "--weights", "w", "--output", "s"],
        "encoder": [".", "--model", "scenes-separate", "--encoder", "vit", "--output", "s"],
        "device": [".", "--model", "scenes-separate", "--device", "gpu", "--output", "s"],
        "output": [".", "--model", "scenes-separate", "--output", "mine"],
    },
    "evaluate": {
        "compare": ["--model", "scenes-separate", "--compare", "x"],
        "output": ["--model", "scenes-separate", "--output", "mine"],
        "report": ["--model", "scenes-separate", "--report", "mine"],
        "neighbours": ["--model", "scenes-separate", "--neighbours", "0"],
    },
    "demo": {"output": ["--output", "mine"]},
    "convert": {"target": ["scenes-separate", "mine"]},
}
# command → options that change what is captioned, how fast, where or on what; each has a test of its own
ACTS = {
    "caption": "paths model context prefix suffix batch_size num_workers",
    "attend": "model image context caption method layer head",
    "app": "model port open_browser",
    "convert": "source conditioning fusion add_context remote_code",
    "index": "dataset overrides model split kind batch_size num_workers",
    "demo": "scenes steps",
    "train": "config overrides config_option resume retrieve neighbours",
    "evaluate": "model overrides config split ablate retrieve batch_size num_workers",
}


def options(command):
    return {one.name for one in typer.main.get_command(app).commands[command].params} - {"help"}


@pytest.mark.parametrize("command", [*ACTS])
def test_no_option_is_without_an_account(command):
    known = {*ACTS[command].split(), *REFUSED.get(command, ()), *(SEARCHED if command == "caption" else ())}
    assert options(command) == known


@pytest.mark.parametrize("name", SEARCHED)
def test_an_option_of_the_search_changes_its_settings(name):
    value, beside = SEARCHED[name]
    assert SearchGroup(**{name: value}, **beside).generation() != SearchGroup().generation()


@pytest.mark.parametrize(("command", "option"), [(c, o) for c, own in REFUSED.items() for o in own])
def test_an_option_that_would_do_nothing_is_refused_in_one_line(tmp_path, monkeypatch, command, option):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes").write_text("mine")
    (tmp_path / "a.txt").write_text("x")
    Image.new("RGB", (40, 40)).save("a.png")
    result = CliRunner().invoke(app, [command, *REFUSED[command][option]])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "a.txt", "mine"]
