"""Several processes: what one of them meets neither hangs the others nor parts their ways in silence."""

import json
import os
import subprocess
import sys

import pytest
import torch
from runs import ROOT, launch, losses, settings

from captioner.base import Processes
from captioner.training import train
from captioner.training.place import Place

SHORT = ["training.max_steps=2", "training.eval_steps=2", "training.save_steps=2", "training.max_eval_samples=4"]
ONE_RUNS_OUT = '''
"""A run over two processes of which the second has no memory for more than three images, from its second step on."""

import os
import sys

import torch

from captioner.base import leave, load_settings
from captioner.training import gradients, loop, objectives

rank, where = int(os.environ["RANK"]), sys.argv[2]
seen = []


class Small(loop.Gradients):
    def __init__(self, accelerator, model, objective):
        super().__init__(accelerator, model, objective)
        own, step = getattr(objective, where), 0

        def scarce(*given):
            images = len(given[-1]["pixel_values"])
            done = own(*given)
            if rank == 1 and self.steps > 1 and images > 3:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return done

        setattr(objective, where, scarce)
        self.steps = 0

    def __call__(self, micro_batches):
        self.steps += 1
        return super().__call__(micro_batches)


loop.Gradients = Small
loop.train(load_settings(sys.argv[1]))
leave()
'''
ABSENT = '''
"""The gradients of two samples over two processes, of which the second never has a sound."""

import os
import sys

sys.path.insert(0, "tests")

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from batches import training_batch
from modalities import captioner, further

from captioner.base import leave
from captioner.training.gradients import Gradients, split
from captioner.training.objectives import CrossEntropy

accelerator = Accelerator(cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)])
alone = accelerator.num_processes == 1
batch = {**training_batch(2), **further(2)}
batch["sound_mask"] = torch.tensor([True, False])
if not alone:
    rank = accelerator.process_index
    batch = list(split(batch, 2))[rank]
    if rank == 1:
        del batch["sound_values"], batch["sound_mask"]
plain = captioner("separate", "serial")
model = accelerator.prepare(plain)
for _ in range(3):
    plain.zero_grad()
    loss = Gradients(accelerator, model, CrossEntropy())([batch])
if accelerator.is_main_process:
    torch.save([loss, {name: p.grad for name, p in plain.named_parameters()}], sys.argv[1])
leave()
'''
APART = """
import os, sys
os.chdir(os.path.join(os.path.dirname(__file__), os.environ["RANK"]))
from captioner.cli.train import train_main
train_main()
"""


def refused(*arguments):
    """What two processes that must not succeed print, and nothing of a traceback of theirs."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *arguments]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    return done.stderr


def saved(directory, file, *overrides):
    settings(directory, *SHORT, *overrides).save(file)
    return str(file)


@pytest.mark.parametrize(
    ("where", "overrides"),
    [
        ("loss", ["training.objective=self_critical"]),
        ("prepare", ["training.objective=self_critical"]),
        ("loss", ["model.image_encoder={name: resnet10t, image_size: 64}"]),
    ],
    ids=["after forward", "before forward", "with buffers"],
)
def test_out_of_memory_on_one_of_two_processes_hangs_none_and_changes_no_result(tmp_path, where, overrides):
    size = ["training.per_device_train_batch_size=4", "training.learning_rate=1e-4"]
    file = saved(tmp_path / "small", tmp_path / "small.yaml", *size, *overrides)
    (tmp_path / "run.py").write_text(ONE_RUNS_OUT)
    launch(str(tmp_path / "run.py"), file, where)
    whole = saved(tmp_path / "whole", tmp_path / "whole.yaml", *size, *overrides)
    launch("train.py", whole)
    parts = json.loads((tmp_path / "small/checkpoint-2/state.json").read_text())["parts"]
    assert parts == [1, 2]
    tolerance = 1e-2 if "resnet" in str(overrides) else 1e-4  # a batch norm's statistics are those of the pieces
    assert losses(tmp_path / "small") == pytest.approx(losses(tmp_path / "whole"), abs=tolerance)


def test_a_modality_that_one_process_lacks_throughout_aborts_nothing_and_changes_no_gradient(tmp_path):
    (tmp_path / "run.py").write_text(ABSENT)
    launch(str(tmp_path / "run.py"), str(tmp_path / "two"))
    subprocess.run([sys.executable, tmp_path / "run.py", tmp_path / "one"], cwd=ROOT, check=True, timeout=300)
    (loss, gradients), (expected, others) = torch.load(tmp_path / "two"), torch.load(tmp_path / "one")
    torch.testing.assert_close(loss, expected)
    assert gradients.keys() == others.keys()
    for name, gradient in others.items():
        assert (gradient is None) == (gradients[name] is None), name
        if gradient is not None:
            torch.testing.assert_close(gradients[name], gradient, atol=1e-4, rtol=1e-4, msg=name)


def test_a_checkpoint_that_only_one_process_sees_ends_the_run_in_one_line(tmp_path):
    """As on two machines whose folders have the same name and are not the same."""
    train(settings(tmp_path / "0/run", *SHORT))
    (tmp_path / "1").mkdir()
    file = saved("run", tmp_path / "run.yaml")
    (tmp_path / "run.py").write_text(APART)
    told = refused(str(tmp_path / "run.py"), "--resume", file)
    assert "error: the processes must see the same, but the checkpoint to go on from is 'checkpoint-2 (" in told
    assert "to process 0 and 'none' to process 1; start all with the same settings, in folders that all of them" in told
    assert "Traceback" not in told.partition("error:")[0]
    assert os.listdir(tmp_path / "1") == []


def test_a_run_goes_on_at_its_place_with_another_number_of_processes(tmp_path):
    same = [*SHORT, "training.lr_scheduler_type=constant", "training.eval_steps=4"]
    train(settings(tmp_path / "one", *same, "training.per_device_train_batch_size=8", "training.max_steps=4"))
    train(settings(tmp_path / "two", *same, "training.per_device_train_batch_size=8"))
    file = saved(tmp_path / "two", tmp_path / "two.yaml", *same, "training.max_steps=4")
    launch("train.py", file, "training.per_device_train_batch_size=4", "--resume")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)


@pytest.mark.parametrize(
    ("batch", "processes", "begun", "told"),
    [(8, 1, 21, ""), (4, 2, 21, ""), (8, 2, 10, "after 40 of its samples, 8 of them again, with 16 at a time, not 8")],
)
def test_the_place_in_an_epoch_is_that_of_the_samples(capsys, batch, processes, begun, told):
    def place(size, count, done):
        options = settings("run", f"training.per_device_train_batch_size={size}")
        return Place.after(done, 128 // (size * count), options, count)

    facts = place(8, 1, 0).facts(21)
    assert facts == {"epoch": 1, "samples": 40, "batch": 8}
    then = place(batch, processes, 21)
    then.restore(facts)
    assert then.begun == begun
    assert told in capsys.readouterr().err
    assert then.facts(21)["epoch"] == 1


def test_settings_that_differ_between_processes_end_the_run_before_any_data_are_read(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import os, sys\n"
        "sys.argv += ['training.seed=' + os.environ['RANK']]\n"
        "from captioner.cli.train import train_main\n"
        "train_main()\n"
    )
    told = refused(str(script), "--config", "configs/scenes.yaml", f"training.output_dir={tmp_path / 'run'}")
    assert "error: the processes must see the same, but `training.seed` is 0 to process 0 and 1 to process 1" in told
    assert not (tmp_path / "run").exists()


def test_one_process_agrees_with_itself():
    Processes().agree({"anything": object()})
    assert Processes().first("a") == "a"
