"""No command replaces a file of a person's: every option that takes a path to write, against what may lie there."""

import shutil
from itertools import product

import pytest
from PIL import Image
from typer.testing import CliRunner

from captioner.cli.main import app

MODEL = ["--model", "scenes-separate"]
# command and option → its arguments; {} stands for what is written.
PLACES = {
    "caption output": ["caption", "p", *MODEL, "--output", "{}"],
    "caption errors": ["caption", "p", *MODEL, "--errors", "{}"],
    "caption both": ["caption", "p", *MODEL, "--output", "new.jsonl", "--errors", "{}"],
    "merge": ["caption", "--merge", "--output", "{}"],
    "attend": ["attend", "p/a.png", *MODEL, "--output", "{}"],
    "evaluate output": ["evaluate", *MODEL, "--config", "run.yaml", "--output", "{}"],
    "evaluate report": ["evaluate", *MODEL, "--config", "run.yaml", "--report", "{}"],
    "demo": ["demo", "--output", "{}"],
    "index": ["index", "run.yaml", *MODEL, "--output", "{}"],
    "convert": ["convert", "scenes-separate", "{}"],
    "train": ["train", "run.yaml", "training.output_dir={}"],
    "features": ["train", "run.yaml", "training.output_dir=run", "data.feature_store={}"],
}
# What may lie there: an image, the table, the config, texts of a person's under the endings that commands write.
OWN = ["p/a.png", "t.csv", "run.yaml", "notes.jsonl", "notes.html", "notes.png", "notes.csv", "p"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p").mkdir()
    Image.new("RGB", (40, 40)).save("p/a.png")
    Image.new("RGB", (40, 40)).save("notes.png")
    (tmp_path / "t.csv").write_text("image,captions\np/a.png,a red circle\n")
    (tmp_path / "run.yaml").write_text(
        "data: {source: table, path: t.csv, train_split: train, validation_split: train}\n"
    )
    (tmp_path / "notes.jsonl").write_text('{"id": 1, "captions": ["mine"]}\n')
    (tmp_path / "notes.csv").write_text("image,caption,mine\na,b,c\n")
    (tmp_path / "notes.html").write_text("<html><title>mine</title></html>")
    return tmp_path


def content(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(("place", "own"), list(product(PLACES, OWN)))
def test_a_file_of_a_person_s_is_refused_in_one_line_and_left(here, place, own):
    before = content(here)
    arguments = [own if word == "{}" else word.replace("{}", own) for word in PLACES[place]]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    errors = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 or "Usage" in result.output
    assert {file: bytes_ for file, bytes_ in content(here).items() if file in before} == before


@pytest.mark.parametrize("own", ["p/a.png", "t.csv"])
@pytest.mark.parametrize("existing", ["skip", "overwrite"])
def test_no_word_lets_captions_take_the_place_of_what_is_read(here, existing, own):
    before = content(here)
    for arguments in (["caption", own, "--output", own], ["caption", "p", own, "--errors", own, "--output", "o.csv"]):
        result = CliRunner().invoke(app, [*arguments, *MODEL, "--existing", existing])
        assert result.exit_code == 2, result.output
    assert content(here) == before


@pytest.mark.parametrize(
    "suffix", ["jpg", ".JPG", "png", ".tiff", "heic", "thumb.png", "/../x.txt", ".", "x/y", "webp"]
)
@pytest.mark.parametrize("existing", ["skip", "overwrite", "append", "prepend", "fail"])
def test_texts_never_take_the_place_of_images_or_leave_their_folder(here, suffix, existing):
    before = content(here)
    result = CliRunner().invoke(app, ["caption", "p", *MODEL, "--sidecar", suffix, "--existing", existing])
    assert result.exit_code == 2, result.output
    assert "--sidecar" in result.output
    assert content(here) == before


def test_a_text_never_takes_the_place_of_the_list_of_images(here):
    (here / "p/a.txt").write_text("a.png\n")
    result = CliRunner().invoke(app, ["caption", "p/a.txt", *MODEL, "--sidecar", ".txt", "--overwrite"])
    assert result.exit_code == 2, result.output
    assert "would replace" in result.output
    assert (here / "p/a.txt").read_text() == "a.png\n"


@pytest.mark.parametrize("name", ["o.errors.jsonl", "o.settings.json"])
def test_files_beside_the_output_are_a_person_s_unless_a_job_wrote_them(here, name):
    (here / name).write_text('{"mine": 1}\n')
    result = CliRunner().invoke(app, ["caption", "p", *MODEL, "--output", "o.jsonl", "--overwrite"])
    assert result.exit_code == 2, result.output
    assert name in result.output
    assert (here / name).read_text() == '{"mine": 1}\n'


def test_what_a_command_made_it_may_replace(here):
    for _ in range(2):
        for arguments in (
            ["attend", "p/a.png", *MODEL, "--output", "seen.png", "--caption", "the red circle"],
            [
                "evaluate",
                *MODEL,
                "--config",
                "run.yaml",
                "--output",
                "e.jsonl",
                "--report",
                "e.html",
                "--num-workers",
                "0",
            ],
        ):
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 0, result.output
    shutil.copy("seen.png", "kept.png")
    assert CliRunner().invoke(app, ["attend", "kept.png", *MODEL, "--output", "kept.png"]).exit_code == 2
