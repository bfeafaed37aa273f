"""A run that was killed goes on as if it had not been; checkpoints are whole, few, and never executed."""

import json
import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from killed import KILLED, TWO_PROCESSES, same_files
from runs import ROOT, launch, lines, losses, settings

from captioner import load
from captioner.base import WriteError
from captioner.base.directories import MARK
from captioner.training import save_captioner, train
from captioner.training.checkpoints import CheckpointError, checkpoints, read_checkpoint, write_checkpoint

STEPS = 60
EVERYTHING = [  # 64 scenes are 16 batches of 4, 8 steps an epoch: a step is nearly always in the middle of one
    f"training.max_steps={STEPS}",
    "training.per_device_train_batch_size=4",
    "training.gradient_accumulation_steps=2",
    "training.save_steps=3",
    "training.eval_steps=25",
    "training.average_decay=0.9",
    "training.warmup_steps=5",
    "model.dropout=0.2",
    "data.modality_dropout={context: 0.3, image: 0.1}",
    "data.augment={scale: [0.5, 1.0]}",
]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "whole"
    train(settings(directory, *EVERYTHING))
    return directory


def test_a_killed_run_continues_bit_for_bit(tmp_path, uninterrupted):
    directory = tmp_path / "killed"
    settings(directory, *EVERYTHING).save(tmp_path / "settings.yaml")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "settings.yaml"), "11"]
    died = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    assert [path.name for path in checkpoints(directory)] == ["checkpoint-6", "checkpoint-9"]
    train(settings(directory, *EVERYTHING), resume=True)
    assert len(losses(directory)) == STEPS
    expected, got = lines(uninterrupted), lines(directory)
    for line in (*expected, *got):
        del line["minutes"]
    assert got == expected
    same_files(uninterrupted / f"checkpoint-{STEPS}", directory / f"checkpoint-{STEPS}")


def test_two_processes_continue_bit_for_bit(tmp_path):
    files = []
    for name in ("whole", "broken"):
        options = [*EVERYTHING, "training.max_steps=10", "training.eval_steps=4", "training.logging_steps=2"]
        files.append(str(tmp_path / f"{name}.yaml"))
        settings(tmp_path / name, *options).save(Path(files[-1]))
    (tmp_path / "run.py").write_text(TWO_PROCESSES)
    launch(str(tmp_path / "run.py"), *files)
    assert len(losses(tmp_path / "whole")) == 5
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    same_files(tmp_path / "whole/checkpoint-10", tmp_path / "broken/checkpoint-10")


def test_checkpoints_are_rotated_by_count(uninterrupted):
    assert [path.name for path in checkpoints(uninterrupted)] == ["checkpoint-57", f"checkpoint-{STEPS}"]


def test_a_checkpoint_holds_nothing_that_is_executed(uninterrupted, tmp_path, monkeypatch):
    files = {path.name for path in checkpoints(uninterrupted)[-1].iterdir()}
    assert files == {"model.safetensors", "optimizer.safetensors", "average.safetensors", "state.json", MARK}

    def refuse(*args, **kwargs):
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(pickle, "Unpickler", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert read_checkpoint(checkpoints(uninterrupted)[-1])[1]["step"] == STEPS


def test_a_run_does_not_write_over_another_and_resumes_only_what_is_there(tmp_path, uninterrupted):
    with pytest.raises(CheckpointError, match="holds checkpoint-60 of an earlier run; add --resume"):
        train(settings(uninterrupted, *EVERYTHING))
    train(settings(tmp_path, "training.max_steps=2"), resume=True)
    assert len(losses(tmp_path)) == 2


def test_a_full_disk_leaves_the_checkpoint_before_it_and_says_so(tmp_path, uninterrupted):
    newest = checkpoints(uninterrupted)[-1]
    tensors, facts = read_checkpoint(newest)
    write_checkpoint(tmp_path, 1, tensors, facts, most=1)
    save_captioner(*load(uninterrupted / "last"), tmp_path / "last")
    model, processor = load(tmp_path / "last")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # a write beyond it fails as on a full disk
    try:
        with pytest.raises(WriteError, match="cannot write .*checkpoint-2: .*make room on the disk"):
            write_checkpoint(tmp_path, 2, tensors, facts, most=1)
        with pytest.raises(WriteError, match="cannot write .*last: .*make room on the disk"):
            save_captioner(model, processor, tmp_path / "last")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "last"]
    assert json.dumps(read_checkpoint(tmp_path / "checkpoint-1")[1]) == json.dumps(facts)
    load(tmp_path / "last")


def test_a_kill_between_the_renames_loses_nothing(tmp_path, uninterrupted):
    directory = tmp_path / "run"
    train(settings(directory, "training.max_steps=2"))
    (directory / "last").rename(directory / "last.old")
    train(settings(directory, "training.max_steps=3"), resume=True)
    assert not (directory / "last.old").exists()
    load(directory / "last")


def test_a_damaged_checkpoint_is_named(tmp_path):
    train(settings(tmp_path, "training.max_steps=2"))
    (tmp_path / "checkpoint-2/optimizer.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="cannot read .*checkpoint-2: .*remove it"):
        train(settings(tmp_path), resume=True)


def test_a_resumed_run_may_change_its_length(tmp_path, capsys):
    train(settings(tmp_path, "training.max_steps=2", "training.lr_scheduler_type=constant"))
    longer = settings(tmp_path, "training.max_steps=4", "training.lr_scheduler_type=constant")
    train(longer, resume=True)
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == [1, 2, 3, 4]
    assert "with other training.max_steps" in capsys.readouterr().err
