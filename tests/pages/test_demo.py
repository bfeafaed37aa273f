"""The demo from end to end with tiny random captioners: whatever they score is what the table and the page say."""

import html
import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from captioner.adopt import assemble, load, locating
from captioner.base import console, load_settings
from captioner.cli.main import app
from captioner.evaluation import evaluate, score_records
from captioner.pages import demo, live_settings, live_training
from captioner.pages.live_training import LIVE
from captioner.scenes import Scenes
from captioner.scenes.scenes import SCENE_VOCABULARY
from captioner.training import save_captioner

ROOT = Path(__file__).parents[2]
TINY = [
    "model.image_encoder={name: vit_tiny_patch16_224, image_size: 64, embed_dim: 32, depth: 1, num_heads: 2}",
    "model.decoder={hidden_size: 32, num_layers: 1, num_heads: 2, intermediate_size: 32, max_positions: 28}",
]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A folder of shipped captioners with random weights."""
    folder = tmp_path_factory.mktemp("shipped")
    for mode, name in demo.DEMO_CAPTIONERS.items():
        settings = load_settings(ROOT / "configs/scenes.yaml", [*TINY, f"model.conditioning={mode}"])
        save_captioner(*assemble(settings.model, settings.data, lambda: SCENE_VOCABULARY), folder / name)
    return folder


@pytest.fixture(scope="module")
def done(shipped, tmp_path_factory):
    """One demo, run by the command line: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locating, "SHIPPED", shipped)
        patch.setattr(console, "_width", 80)
        arguments = ["demo", "--output", str(folder / "page.html"), "--scenes", "2", "--steps", "4"]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_the_demo_leaves_a_page_a_picture_and_a_captioner(done):
    folder, _ = done
    assert {path.name for path in folder.iterdir()} == {"page.html", "captioner-demo-scene.png", "captioner-demo-live"}
    with Image.open(folder / "captioner-demo-scene.png") as image:
        assert image.size == (64, 64)
    load(folder / "captioner-demo-live/best")


def test_table_and_page_say_what_an_evaluation_measures(done, shipped):
    folder, printed = done
    page = (folder / "page.html").read_text()
    unseen, generation = Scenes("test", [1, 2, 3], 6), load_settings(LIVE).generation
    numbers, captions = [], []
    for name in demo.DEMO_CAPTIONERS.values():
        for hidden in demo.SHOWN_ROWS.values():
            records = evaluate(*load(shipped / name), unseen, generation, hidden=hidden).records
            captions += [record["caption"] for record in records]
            scores = [score_records([r for r in records if r["level"] == level]) for level in (1, 2, 3)]
            numbers += [t for s in scores for t in (f"{100 * s['exact_match']:.1f} %", f"{s['cider_d']:.2f}")]
    table = re.search(r"<table>.*</table>", page, re.S).group()
    assert re.findall(r"<td[^>]*>([^<]+)</td>", table) == numbers
    assert re.findall(r"\d+\.\d %|\d\.\d\d\b", printed.split("2 of 3")[0]) == numbers
    assert all(html.escape(caption) in page for caption in captions)
    for mode in demo.DEMO_CAPTIONERS:
        assert mode in printed
    for given in demo.SHOWN_ROWS:
        assert len(re.findall(rf"{re.escape(given)} +\d", printed)) == 2


def test_the_page_shows_the_scenes_and_the_training(done):
    folder, _ = done
    page = (folder / "page.html").read_text()
    for sample in (Scenes("test", [1, 2, 3], 6)[i] for i in range(6)):
        assert html.escape(sample["context"]) in page
        assert all(html.escape(caption) in page for caption in sample["captions"])
    assert page.count("<article") == 6
    loss, exact = re.findall(r"<svg.*?</svg>", page, re.S)
    assert (loss.count("<circle"), exact.count("<circle")) == (4, 4)
    assert "for 4 steps" in page


def test_the_commands_that_it_names_run(done, shipped, monkeypatch):
    folder, printed = done
    monkeypatch.setattr(locating, "SHIPPED", shipped)
    commands = [line.strip() for line in printed.splitlines() if line.startswith("  captioner ")]
    assert len(commands) == 4
    assert str(folder / "page.html") in printed
    page = (folder / "page.html").read_text()
    shorten = {"caption": ["--num-workers", "0"], "evaluate": ["data.limit=2", "--num-workers", "0"]}
    shorten["train"] = [
        "training.max_steps=1",
        "training.max_eval_samples=1",
        f"training.output_dir={folder / 'other'}",
    ]
    for command in commands:
        assert html.escape(command) in page
        _, name, *arguments = shlex.split(command)
        result = CliRunner().invoke(app, [name, *arguments, *shorten[name]], catch_exceptions=False)
        assert result.exit_code == 0, f"{command}\n{result.output}"


def test_a_second_demo_stands_beside_the_first_whose_captioner_stays(shipped, tmp_path, monkeypatch):
    monkeypatch.setattr(locating, "SHIPPED", shipped)
    demo.run_demo(tmp_path / "page.html", scenes=1, steps=2)
    first = (tmp_path / "captioner-demo-live/best/model.safetensors").read_bytes()
    demo.run_demo(tmp_path / "page.html", scenes=1, steps=2)
    assert (tmp_path / "captioner-demo-live/best/model.safetensors").read_bytes() == first
    assert "captioner-demo-live-2/best" in (tmp_path / "page.html").read_text()
    load(tmp_path / "captioner-demo-live-2/best")


def test_a_folder_of_the_users_own_is_left_alone_by_a_demo(tmp_path):
    (tmp_path / "live").mkdir()
    (tmp_path / "live-2").write_text("mine")
    (tmp_path / "live-3").symlink_to("nowhere")
    assert demo.unused(tmp_path / "live") == tmp_path / "live-4"
    assert demo.unused(tmp_path / "other") == tmp_path / "other"


def test_the_demo_takes_the_packages_captioners_whatever_lies_in_the_folder(shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenes-separate").mkdir()
    (tmp_path / "scenes-separate/config.json").write_text("{}")
    monkeypatch.setattr(locating, "SHIPPED", shipped)
    assert [trial.mode for trial in demo.caption_unseen(Scenes("test", [1], 1))] == ["concatenated"] * 3 + [
        "separate"
    ] * 3


def test_the_live_config_is_one_file_in_the_package_and_in_the_repository():
    assert (ROOT / "configs/demo.yaml").samefile(LIVE)
    assert LIVE.parent == Path(demo.__file__).parents[1] / "templates"
    settings = load_settings(LIVE)
    assert settings.data.levels == [1]
    assert settings.generation.num_beams == 1


@pytest.mark.parametrize("steps", [1, 4, 7, 400, 3000])
def test_the_live_settings_fit_any_number_of_steps(tmp_path, steps):
    options = live_settings(tmp_path / "a: [b]", steps).training
    assert options.output_dir == str(tmp_path / "a: [b]")
    assert options.max_steps == options.save_steps == steps
    assert -(-steps // options.eval_steps) <= 6
    assert options.warmup_steps < steps
    assert steps // options.logging_steps <= 120


@pytest.mark.parametrize(
    ("milliseconds", "least", "most"), [(0.01, 3000, 3000), (75, 1300, 1500), (600, 400, 400), (9000, 400, 400)]
)
def test_the_steps_fit_into_two_minutes(monkeypatch, milliseconds, least, most):
    def pretend(settings):
        options = settings.training
        steps = range(options.logging_steps, options.max_steps + 1, options.logging_steps)
        lines = [{"step": s, "minutes": round(0.1 + s * milliseconds / 60_000, 3), "loss": 1.0} for s in steps]
        log = Path(options.output_dir) / "metrics.jsonl"
        log.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"step": steps[-1], "exact_match": 0.0}]))

    monkeypatch.setattr(live_training, "train", pretend)
    assert least <= live_training.steps_that_fit() <= most


def test_an_installation_without_captioners_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(locating, "SHIPPED", tmp_path)
    result = CliRunner().invoke(app, ["demo", "--output", str(tmp_path / "page.html")])
    assert result.exit_code == 2
    assert "lacks the shipped captioners ['scenes-concatenated', 'scenes-separate']" in " ".join(result.output.split())
