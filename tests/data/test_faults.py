"""Bad data are counted over all processes, named at the end, and stop a run only where their share passes the limit."""

import json
import signal
import subprocess
import sys
from collections import defaultdict

import datasets
import numpy as np
import pytest
from datasets import Dataset, Features, List, Value
from killed import KILLED, same_files
from PIL import Image
from runs import ROOT, launch, losses
from runs import settings as scene_settings
from typer.testing import CliRunner

from captioner import load
from captioner.base import DataSettings, GenerationSettings
from captioner.cli.main import app
from captioner.data import TRAINING, Bad, BadData, DataError, load_split
from captioner.evaluation import evaluate
from captioner.training import train

PHOTOS = 20
LONG = " ".join(["circle"] * 30)
EXPECTED = {
    ("training", "caption over the length limit"): {"long"},
    ("training", "duplicate id"): {"twice"},
    ("training", "empty caption"): {"blank", "none"},
    ("training", "missing image"): {"gone"},
    ("training", "unreadable image"): {"broken"},
    ("validation", "unreadable image"): {"broken"},
    ("validation", "image also in training"): {"g0", "broken"},
}
STOPS = """
import sys
from accelerate import Accelerator
from captioner.base import leave, load_settings
from captioner.data import DataError
from captioner.training import train

Accelerator.end_training = lambda self: None
train(load_settings(sys.argv[1]))
try:
    train(load_settings(sys.argv[2]))
except DataError as error:
    assert "samples of training cannot be used" in str(error), error
else:
    raise AssertionError("nothing stopped the run")
leave()
"""


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """A table with each fault once, among twenty good photos."""
    folder = tmp_path_factory.mktemp("table")
    for number in range(PHOTOS + 3):
        Image.new("RGB", (12, 8), (number, 90, 30)).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:40])
    good = [{"image": f"{number}.png", "captions": ["a circle"], "id": f"g{number}"} for number in range(PHOTOS)]
    faults = [
        {"image": "broken.png", "captions": ["a broken circle"], "id": "broken"},
        {"image": "gone.png", "captions": ["a circle that is gone"], "id": "gone"},
        {"image": "20.png", "captions": [" "], "id": "none"},
        {"image": "21.png", "captions": ["", "a circle"], "id": "blank"},
        {"image": "22.png", "captions": [LONG], "id": "long"},
        {"image": "0.png", "captions": ["one circle"], "id": "twice"},
        {"image": "1.png", "captions": ["another circle"], "id": "twice"},
    ]
    for name, rows in (("train", [*good, *faults]), ("validation", [good[0], faults[0]])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(directory, folder, *more):
    keys = [
        *("data.source=table", f"data.path={folder}", "data.id_column=id", "data.max_bad_share=0.5"),
        *("data.max_caption_length=24", "training.per_device_train_batch_size=4", "training.max_steps=14"),
        *(
            "training.eval_steps=7",
            "training.logging_steps=3",
            "data.tokenizer.vocab_size=300",
            "training.save_steps=5",
        ),
    ]
    return scene_settings(directory, *keys, *more)


def found(file):
    result = defaultdict(set)
    for line in file.read_text().splitlines():
        bad = json.loads(line)
        result[bad["split"], bad["kind"]].add(bad["id"].partition("#")[0])
    return result


def test_every_kind_is_counted_and_named_and_stops_nothing(tmp_path, table, capsys):
    train(run(tmp_path, table))
    assert len(losses(tmp_path)) == 4
    assert found(tmp_path / "bad_data.jsonl") == EXPECTED
    told = capsys.readouterr().err
    assert "training: unreadable image × 1, left out (broken" in told
    assert "training: caption over the length limit × 1, used (long" in told
    assert f"all of them: {tmp_path / 'bad_data.jsonl'}" in told


def test_one_id_on_two_images_is_two_samples_with_their_own_captions(table):
    samples = load_split(DataSettings(source="table", path=str(table), id_column="id", max_bad_share=0.5), "train")
    twice = [sample for sample in samples if sample["id"].startswith("twice#")]
    assert [(sample["image"][-5:], sample["captions"]) for sample in twice] == [
        ("0.png", ["one circle"]),
        ("1.png", ["another circle"]),
    ]
    assert len(samples) == PHOTOS + 5


def test_a_slice_stays_the_same_when_a_file_goes(table):
    options = DataSettings(source="table", path=str(table), id_column="id", max_bad_share=0.5)
    assert [sample["id"].partition("#")[0] for sample in load_split(options, "train[20:24]")] == ["broken", "blank"]


def test_two_processes_know_what_both_found_and_stop_together_above_the_limit(tmp_path, table):
    run(tmp_path / "calm", table, "training.max_steps=8").save(tmp_path / "calm.yaml")
    run(tmp_path / "strict", table, "data.max_bad_share=0.08").save(tmp_path / "strict.yaml")  # 3 of 27 are lost
    (tmp_path / "run.py").write_text(STOPS)
    launch(str(tmp_path / "run.py"), str(tmp_path / "calm.yaml"), str(tmp_path / "strict.yaml"))
    assert found(tmp_path / "calm/bad_data.jsonl") == EXPECTED


def test_a_killed_run_ends_with_the_same_report_and_weights(tmp_path, table):
    train(run(tmp_path / "whole", table))
    run(tmp_path / "killed", table).save(tmp_path / "settings.yaml")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "settings.yaml"), "8"]
    died = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    train(run(tmp_path / "killed", table), resume=True)
    same_files(tmp_path / "whole/checkpoint-14", tmp_path / "killed/checkpoint-14")
    assert (tmp_path / "killed/bad_data.jsonl").read_text() == (tmp_path / "whole/bad_data.jsonl").read_text()


def test_batches_of_nothing_but_bad_images_leave_the_weights_finite(tmp_path, table):
    rows = {"image": ["broken.png"] * 3 + ["0.png"], "captions": [["a circle"]] * 4}
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("broken.png", "0.png"):
        (folder / name).write_bytes((table / name).read_bytes())
    for name, chosen in (("train", range(4)), ("validation", [3])):
        lines = [{key: rows[key][row] for key in rows} | {"id": f"i{row}", "text": str(row)} for row in chosen]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    keys = ("training.per_device_train_batch_size=1", "data.context_column=text", "data.max_bad_share=1.0")
    train(run(tmp_path / "run", folder, *keys, "training.max_steps=4", "training.logging_steps=1"))
    assert np.isfinite(losses(tmp_path / "run")).all()
    assert losses(tmp_path / "run").count(0.0) == 3
    assert len(found(tmp_path / "run/bad_data.jsonl")["training", "unreadable image"]) == 3


def test_a_stream_counts_its_bad_rows(tmp_path, table):
    kinds = Features({"image": Value("binary"), "captions": List(Value("string")), "id": Value("string")})
    picture = (table / "0.png").read_bytes()
    names = [*(f"g{number}" for number in range(PHOTOS)), "broken", "none", "blank", "long", "twice", "twice"]
    texts = {"none": [], "blank": ["", "a circle"], "long": [LONG]}
    images = [{"bytes": picture[:40] if name == "broken" else picture, "path": None} for name in names]
    rows = {"image": images, "captions": [texts.get(name, ["a circle"]) for name in names], "id": names}
    kinds["image"] = datasets.Image()
    folder = tmp_path / "shards"
    folder.mkdir()
    Dataset.from_dict(rows, features=kinds).to_parquet(folder / "train-0.parquet", batch_size=7)
    few = {name: column[:2] for name, column in rows.items()}
    Dataset.from_dict(few, features=kinds).to_parquet(folder / "validation-0.parquet")
    keys = ("data.source=datasets", "data.streaming=true", "training.per_device_train_batch_size=2")
    train(run(tmp_path / "run", folder, *keys))
    expected = {key: own for key, own in EXPECTED.items() if key[0] == "training" and "missing" not in key[1]}
    assert found(tmp_path / "run/bad_data.jsonl") == expected
    with pytest.raises(DataError, match=r"2 of 26 samples of training cannot be used, a share above .* 0.05: "):
        train(run(tmp_path / "strict", folder, *keys, "data.max_bad_share=0.05"))


def test_evaluation_names_what_it_could_not_caption(tmp_path, table):
    keys = ("data.source=table", f"data.path={table}", "data.id_column=id", "data.max_bad_share=0.5")
    output = tmp_path / "captions.jsonl"
    options = ["--model", "scenes-concatenated", "--output", str(output), "--num-workers", "0"]
    small = ("generation.num_beams=1", "generation.max_new_tokens=3")
    done = CliRunner().invoke(app, ["evaluate", *keys, *small, *options])
    assert done.exit_code == 0, done.output
    assert "validation: unreadable image × 1, left out (broken)" in done.stderr
    assert found(tmp_path / "captions.bad.jsonl") == {("validation", "unreadable image"): {"broken"}}
    refused = CliRunner().invoke(app, ["evaluate", *keys[:-1], *small, *options])
    assert refused.exit_code == 2
    assert "1 of 2 samples of validation cannot be used" in refused.stderr
    samples = load_split(DataSettings(source="table", path=str(table), id_column="id"), "validation")
    result = evaluate(*load("scenes-concatenated"), samples, GenerationSettings(num_beams=1, max_new_tokens=3))
    assert [bad.id for bad in result.bad] == ["broken"]


def test_the_limit_is_a_share_of_the_split_and_not_of_what_was_seen():
    bad = BadData(limit=0.25)
    bad.begin(TRAINING, range(8))
    bad.of(TRAINING).extend([Bad("unreadable image", "a", "no image"), Bad("unreadable image", "b", "no image")])
    bad.of(TRAINING).append(Bad("caption over the length limit", "c", "cut", left_out=False))
    bad.share()
    bad.of(TRAINING).append(Bad("unreadable image", "a", "no image"))  # in the next epoch
    bad.share()
    bad.of(TRAINING).append(Bad("empty caption", "d", "it has no other"))
    with pytest.raises(DataError, match=r"^3 of 8 samples of training cannot be used, a share above .* 0.25: a \(unr"):
        bad.share()
