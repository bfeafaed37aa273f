"""The configs for Accelerate's launcher say what it understands; weights may be shared out over processes."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate import DistributedType
from accelerate.commands.config.config_args import load_config_from_file
from runs import ROOT, launch, losses, settings

from captioner import load
from captioner.base import SettingsError
from captioner.training import train

CONFIGS = sorted((ROOT / "configs/accelerate").glob("*.yaml"))
KINDS = {"ddp": DistributedType.MULTI_GPU, "fsdp2": DistributedType.FSDP, "deepspeed": DistributedType.DEEPSPEED}
SHARDED = '''
"""A run over two processes with its weights shared out, then the same in two halves."""

import sys

from accelerate import Accelerator, DistributedType
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from captioner.base import leave, load_settings
from captioner.training import accelerator, train


class Sharding(Accelerator):
    """Accelerate shards on GPUs only; this does on CPUs what it does there."""

    distributed_type = property(lambda self: DistributedType.FSDP)
    is_fsdp2 = property(lambda self: True)

    def prepare(self, *parts):
        if len(parts) == 1:
            return self.prepare_data_loader(*parts)
        model, optimizer = parts
        names = {p: name for name, p in model.named_parameters()}
        groups = [[names[p] for p in group["params"]] for group in optimizer.param_groups]
        mesh = init_device_mesh("cpu", (self.num_processes,))
        for block in model.decoder.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        parameters = dict(model.named_parameters())
        for group, own in zip(optimizer.param_groups, groups, strict=True):
            group["params"] = [parameters[name] for name in own]
        return model, self.prepare_optimizer(optimizer)

    def end_training(self):
        """The processes stay together for the next run."""


accelerator.Accelerator = Sharding
whole, half, parts = map(load_settings, sys.argv[1:])
for settings, resume in ((whole, False), (half, False), (parts, True)):
    train(settings, resume)
leave()
'''


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_one_that_the_launcher_reads_and_opens_with_its_command(path):
    assert f"accelerate launch --config_file configs/accelerate/{path.name} train.py" in path.read_text()
    assert load_config_from_file(str(path)).distributed_type == KINDS[path.stem]


def test_all_three_layouts_have_a_config():
    assert {path.stem for path in CONFIGS} == KINDS.keys()


def test_the_layers_that_fsdp_wraps_exist():
    from captioner.model import decoder

    config = yaml.safe_load((ROOT / "configs/accelerate/fsdp2.yaml").read_text())["fsdp_config"]
    assert hasattr(decoder, config["fsdp_transformer_layer_cls_to_wrap"])


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_a_layout_that_does_not_start_is_no_silent_ddp(tmp_path, monkeypatch, name):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    plain = SimpleNamespace(distributed_type=DistributedType.NO)
    monkeypatch.setattr("captioner.training.accelerator.Accelerator", lambda **options: plain)
    with pytest.raises(SettingsError, match=f"asked for {name}, but Accelerate runs NO here"):
        train(settings(tmp_path))


def test_sharded_weights_learn_the_same_and_resume_bit_for_bit(tmp_path):
    files = []
    options = ["training.lr_scheduler_type=constant", "training.average_decay=0.9"]
    split = ["training.per_device_train_batch_size=8", "training.gradient_accumulation_steps=2"]
    for directory, *own in (("whole",), ("parts", "training.max_steps=2"), ("parts",)):
        files.append(tmp_path / f"{len(files)}.yaml")
        settings(tmp_path / directory, *options, *split, *own).save(files[-1])
    (tmp_path / "run.py").write_text(SHARDED)
    train(settings(tmp_path / "one", *options, "training.per_device_train_batch_size=32"))
    launch(*map(str, [tmp_path / "run.py", *files]))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    one, whole, parts = (weights(tmp_path / name / "last") for name in ("one", "whole", "parts"))
    for name, value in one.items():
        assert torch.equal(whole[name], parts[name])
        assert torch.allclose(value, whole[name], atol=1e-4), name


def weights(directory: Path):
    return load(directory)[0].state_dict()


@pytest.mark.parametrize(
    ("kind", "zero_stage", "override", "message"),
    [
        ("FSDP", 0, "training.objective=self_critical", "FSDP shards them; use configs/accelerate/ddp.yaml"),
        ("DEEPSPEED", 3, "training.seed=0", "`zero_stage` up to 2 .* but they are 3 and 1"),
        ("DEEPSPEED", 2, "training.gradient_accumulation_steps=4", "but they are 2 and 4; change them"),
    ],
)
def test_what_a_layout_cannot_do_is_explained(tmp_path, monkeypatch, kind, zero_stage, override, message):
    plugin = SimpleNamespace(zero_stage=zero_stage, deepspeed_config={})
    accelerator = SimpleNamespace(
        distributed_type=DistributedType(kind), state=SimpleNamespace(deepspeed_plugin=plugin)
    )
    monkeypatch.setattr("captioner.training.accelerator.Accelerator", lambda **options: accelerator)
    with pytest.raises(SettingsError, match=message):
        train(settings(tmp_path, override))


def test_resuming_under_deepspeed_is_refused_and_clipping_handed_over(tmp_path, monkeypatch):
    plugin = SimpleNamespace(zero_stage=2, deepspeed_config={})
    accelerator = SimpleNamespace(
        distributed_type=DistributedType.DEEPSPEED, state=SimpleNamespace(deepspeed_plugin=plugin)
    )
    monkeypatch.setattr("captioner.training.accelerator.Accelerator", lambda **options: accelerator)
    with pytest.raises(SettingsError, match="--resume does not work under DeepSpeed"):
        train(settings(tmp_path, "training.max_grad_norm=0.5"), resume=True)
    assert plugin.deepspeed_config == {"gradient_clipping": 0.5, "train_micro_batch_size_per_gpu": 32}
