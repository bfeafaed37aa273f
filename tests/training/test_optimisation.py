"""What is trained and how fast, and adapters."""

import pytest
import torch
from accelerate import Accelerator
from batches import training_batch
from conftest import tiny_batch, tiny_captioner
from runs import losses, settings

from captioner import load
from captioner.base import SettingsError, TrainingSettings
from captioner.training import train
from captioner.training.gradients import Gradients
from captioner.training.objectives import CrossEntropy
from captioner.training.optimisation import (
    TRAINED_PARTS,
    add_adapters,
    build_optimizer,
    build_schedule,
    merged,
    parameter_groups,
    part_parameters,
    set_training_mode,
)

LORA = {"r": 2, "lora_alpha": 4, "target_modules": r".*self_attention\.(query|value)", "init_lora_weights": False}


def test_every_part_may_have_its_own_rate_and_only_matrices_decay():
    model = tiny_captioner("separate")
    rates = {f"{part}_learning_rate": 10.0 ** -(i + 3) for i, part in enumerate(TRAINED_PARTS)}
    groups = parameter_groups(model, TrainingSettings(**rates, weight_decay=0.1))
    rate = {p: group["lr"] for group in groups for p in group["params"]}
    decay = {p: group["weight_decay"] for group in groups for p in group["params"]}
    assert rate.keys() == set(model.parameters())
    assert {rate[p] for p in model.encoder.image.parameters()} == {1e-3}
    assert {rate[p] for p in model.encoder.context.parameters()} == {1e-4}
    assert {rate[p] for p in model.decoder.blocks[0].self_attention.parameters()} == {1e-5}
    assert rate[model.lm_head.weight] == 1e-5
    assert {rate[p] for block in model.decoder.blocks for p in block.cross_attention.parameters()} == {1e-6}
    assert {rate[p] for p in model.encoder.projections.parameters()} == {1e-6}
    assert decay[model.decoder.token_embedding.weight] == 0
    assert {decay[p] for p in model.parameters() if p.ndim == 1} == {0}
    assert decay[model.decoder.blocks[0].feed_forward[0].weight] == 0.1


@pytest.mark.parametrize("part", TRAINED_PARTS)
def test_a_rate_of_zero_leaves_a_part_as_it_was_and_trains_the_others(part):
    model = tiny_captioner("separate").train()
    before = {name: [p.clone() for p in own] for name, own in part_parameters(model).items()}
    optimizer = build_optimizer(model, TrainingSettings(**{f"{part}_learning_rate": 0}))
    Gradients(Accelerator(cpu=True), model, CrossEntropy())([training_batch()])
    optimizer.step()
    for name, own in part_parameters(model).items():
        same = [torch.equal(p, old) for p, old in zip(own, before[name], strict=True)]
        assert all(same) if name == part else not all(same)


def test_a_frozen_encoder_stays_as_it_is_in_captioning():
    model = tiny_captioner("separate")
    set_training_mode(model, model, TrainingSettings(image_encoder_learning_rate=0))
    assert not any(module.training for module in model.encoder.image.modules())
    assert all(module.training for part in (model.encoder.context, model.decoder) for module in part.modules())


def test_nothing_left_to_train_is_explained():
    options = TrainingSettings(**{f"{part}_learning_rate": 0 for part in TRAINED_PARTS})
    with pytest.raises(SettingsError, match="every part is frozen; give one of `training.image_encoder_learning_rate`"):
        parameter_groups(tiny_captioner(), options)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [("cosine_with_min_lr", {"min_lr": 1e-5}), ("warmup_stable_decay", {"num_decay_steps": 5}), ("polynomial", {})],
)
def test_schedules_of_transformers_take_their_options(name, kwargs):
    options = TrainingSettings(
        lr_scheduler_type=name, lr_scheduler_kwargs=kwargs, warmup_steps=2, max_steps=20, learning_rate=1e-2
    )
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
    schedule = build_schedule(optimizer, options)
    rates = []
    for _ in range(20):
        optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    assert max(rates) == rates[1] == 1e-2
    assert rates[-1] == pytest.approx(kwargs.get("min_lr", 0.0), abs=1e-6)


def test_an_option_that_a_schedule_does_not_take_is_explained():
    options = TrainingSettings(lr_scheduler_type="cosine", lr_scheduler_kwargs={"minimum": 1})
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(SettingsError, match="`training.lr_scheduler_kwargs` is .*minimum"):
        build_schedule(optimizer, options)


def test_a_part_with_adapters_learns_through_them_alone_and_new_cross_attention_in_full():
    pytest.importorskip("peft")
    model = tiny_captioner("separate")
    add_adapters(model, LORA)
    groups = parameter_groups(model, TrainingSettings(image_encoder_learning_rate=0))
    trained = {id(p) for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        expected = "lora_" in name or "cross_attention" in name or "projections" in name or "encoder.context" in name
        assert (id(parameter) in trained) == parameter.requires_grad == expected, name


def test_merged_adapters_give_the_same_logits_without_adapters():
    pytest.importorskip("peft")
    plain, model = tiny_captioner(), tiny_captioner()
    add_adapters(model, LORA)
    whole = merged(model)
    inputs, ids = tiny_batch()
    with torch.no_grad():
        expected = model(**inputs, decoder_input_ids=ids).logits
        torch.testing.assert_close(whole(**inputs, decoder_input_ids=ids).logits, expected)
        assert not torch.allclose(plain(**inputs, decoder_input_ids=ids).logits, expected, atol=1e-3)
    assert whole.state_dict().keys() == plain.state_dict().keys()
    assert merged(plain) is plain


def test_a_run_with_adapters_resumes_and_saves_a_plain_captioner(tmp_path):
    pytest.importorskip("peft")
    options = [
        'training.lora={r: 2, target_modules: ".*self_attention.(query|value)"}',
        "training.average_decay=0.5",
        "training.lr_scheduler_type=constant",
    ]
    train(settings(tmp_path / "whole", *options))
    train(settings(tmp_path / "parts", *options, "training.max_steps=2"))
    train(settings(tmp_path / "parts", *options), resume=True)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    whole, parts = (load(tmp_path / name / "last")[0].state_dict() for name in ("whole", "parts"))
    assert not [name for name in whole if "lora" in name]
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("lora", "message"),
    [("{r: 2, target_modules: nowhere}", "nowhere"), ("{rank: 2}", "rank")],
)
def test_adapters_that_peft_refuses_are_explained(tmp_path, lora, message):
    pytest.importorskip("peft")
    with pytest.raises(SettingsError, match=f"`training.lora` is .*{message}"):
        train(settings(tmp_path, f"training.lora={lora}"))
