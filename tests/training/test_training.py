"""The loop: it learns, logs, keeps the best and the last, and gives the same losses however a batch is split."""

import re

import pytest
import torch
from runs import TINY, launch, lines, losses, settings

from captioner import load
from captioner.base import OccupiedError, SettingsError, load_settings
from captioner.training import save_captioner, train
from captioner.training.optimisation import parameter_groups


def test_a_run_leaves_its_log_its_settings_and_the_best_and_last_captioner(tmp_path):
    best = train(settings(tmp_path / "run"))
    logged = lines(tmp_path / "run")
    assert [line["step"] for line in logged if "loss" in line] == [1, 2, 3, 4]
    validations = [line for line in logged if "cider_d" in line]
    assert [line["step"] for line in validations] == [2, 4]
    assert {"bleu_1", "bleu_4", "rouge_l", "exact_match"} <= set(validations[0])
    assert best["step"] in (2, 4)
    assert load_settings(tmp_path / "run/settings.yaml").training.max_steps == 4
    for name in ("best", "last"):
        model, processor = load(tmp_path / "run" / name)
        assert not model.training
        assert processor.decode(processor(captions="the small red star")["labels"][0]) == "the small red star"
        assert not list((tmp_path / "run" / name).glob("*.bin"))
        assert "the train split of scenes" in (tmp_path / "run" / name / "README.md").read_text()
    assert f"at step {best['step']}" in (tmp_path / "run/best/README.md").read_text()
    folders = {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()}
    assert folders - {"tensorboard"} == {"best", "last", "checkpoint-2", "checkpoint-4"}


@pytest.mark.parametrize("mode", ["concatenated", "separate"])
def test_the_loss_falls(tmp_path, mode):
    steps = ["training.max_steps=40", "training.eval_steps=40", "training.learning_rate=1e-2"]
    train(settings(tmp_path, f"model.conditioning={mode}", *steps))
    curve = losses(tmp_path)
    assert sum(curve[-5:]) < 0.6 * sum(curve[:5])


def test_the_same_batch_gives_the_same_losses_split_over_micro_batches_and_processes(tmp_path):
    whole = "training.per_device_train_batch_size=16"
    half = "training.per_device_train_batch_size=8"
    train(settings(tmp_path / "one", whole))
    train(settings(tmp_path / "accumulated", half, "training.gradient_accumulation_steps=2"))
    overrides = [*TINY, f"training.output_dir={tmp_path / 'two'}", half]
    launch("train.py", "--config", "configs/scenes.yaml", *overrides)
    expected = torch.tensor(losses(tmp_path / "one"))
    assert torch.allclose(torch.tensor(losses(tmp_path / "accumulated")), expected, atol=1e-5)
    assert torch.allclose(torch.tensor(losses(tmp_path / "two")), expected, atol=1e-5)
    scores = [[line["cider_d"] for line in lines(tmp_path / name) if "cider_d" in line] for name in ("one", "two")]
    assert scores[0] == pytest.approx(scores[1])
    weights = [load(tmp_path / name / "last")[0].state_dict() for name in ("one", "accumulated", "two")]
    for name, value in weights[0].items():
        for other in weights[1:]:
            assert torch.allclose(value, other[name], atol=1e-4), name


def test_a_rate_of_zero_freezes_the_image_encoder_and_only_matrices_decay(tmp_path):
    train(settings(tmp_path / "run", "training.max_steps=1"))
    model, _ = load(tmp_path / "run/last")
    options = settings(tmp_path, "training.image_encoder_learning_rate=0", "training.weight_decay=0.1").training
    groups = parameter_groups(model, options)
    trained = {p for group in groups for p in group["params"]}
    assert not trained & set(model.encoder.image.parameters())
    assert model.decoder.token_embedding.weight in trained
    for group in groups:
        assert group["lr"] == options.learning_rate
        for parameter in group["params"]:
            embedding = parameter is model.decoder.token_embedding.weight
            assert (group["weight_decay"] > 0) <= (parameter.ndim > 1 and not embedding)


def test_saving_replaces_a_captioner_whole_and_nothing_else(tmp_path):
    train(settings(tmp_path / "run", "training.max_steps=1"))
    model, processor = load(tmp_path / "run/last")
    (tmp_path / "kept").mkdir()
    save_captioner(model, processor, tmp_path / "kept")
    (tmp_path / "kept/stray").write_text("from somebody")
    save_captioner(model, processor, tmp_path / "kept")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept", "run"]
    assert (tmp_path / "kept/stray").read_text() == "from somebody"
    load(tmp_path / "kept")
    (tmp_path / "kept/.captioner.json").unlink()
    with pytest.raises(OccupiedError, match="kept is a folder with files that captioner did not make"):
        save_captioner(model, processor, tmp_path / "kept")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.lr_scheduler_type=triangle", "must be one of .*'cosine'.* but is 'triangle'"),
        ("training.metric_for_best_model=spice", "must be one of .*'cider_d'.* but is 'spice'"),
        ("training.per_device_train_batch_size=65", "is 65, but the training split has only 64 samples"),
    ],
)
def test_what_cannot_be_trained_is_explained(tmp_path, override, message):
    with pytest.raises(SettingsError, match=message):
        train(settings(tmp_path, override))


def test_every_validation_says_what_its_scores_were_measured_on(tmp_path):
    options = ["training.objective=self_critical", "generation.num_beams=2", "training.max_steps=2"]
    train(settings(tmp_path, *options))
    line = next(line for line in lines(tmp_path) if "cider_d" in line)
    assert re.match(
        r"tok:ptb\|refs:1-2\|data:scenes#[0-9a-f]{8}\|split:validation\[:6\]\|samples:6\|"
        r"search:num_beams=2,max_new_tokens=18\|captioner:",
        line["signature"],
    )
    assert line["training_signature"].startswith(
        "reward:cider_d[n4,s6.0]|eos:in captions and references|df:training references|"
        "candidates:samples|baseline:leave_one_out|"
    )


def test_tensorboard_shows_validation_images_with_their_captions(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(settings(tmp_path, "training.logged_samples=2"))
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert set(events.Tags()["images"]) == {"validation/validation-0", "validation/validation-1"}
    shown = events.Images("validation/validation-0")
    assert [event.step for event in shown] == [2, 4]
    assert shown[0].width == 320 < shown[0].height  # the square picture, the text beneath
    assert {"loss", "cider_d"} <= set(events.Tags()["scalars"])


def test_training_stops_early_when_nothing_gets_better(tmp_path):
    stuck = ["training.learning_rate=1e-12", "training.max_steps=20", "training.early_stopping_patience=3"]
    best = train(settings(tmp_path, *stuck, "training.eval_steps=1", "training.save_steps=50"))
    assert [line["step"] for line in lines(tmp_path) if "cider_d" in line] == [1, 2, 3, 4]
    assert best["cider_d"] == lines(tmp_path)[1]["cider_d"]
    assert (tmp_path / "checkpoint-4").is_dir()
    load(tmp_path / "last")
    assert train(settings(tmp_path, *stuck, "training.eval_steps=1"), resume=True) == best
    assert len(losses(tmp_path)) == 4
