"""What may change when a run goes on changes, and what may not is refused in one line."""

import json

import pytest
from PIL import Image
from runs import lines, losses, settings

from captioner.training import train
from captioner.training.checkpoints import CheckpointError
from captioner.training.state import RunState

HALF = ["training.max_steps=2", "training.lr_scheduler_type=constant", "training.max_eval_samples=2"]
WHOLE = ["training.lr_scheduler_type=constant", "training.max_eval_samples=2"]
FEW_WORDS = "data.tokenizer={kind: word, min_frequency: 1}"


def rates(directory):
    return {
        name: value
        for line in lines(directory)[-2:]
        for name, value in line.items()
        if name.endswith("learning_rate") or "learning_rate." in name
    }


def test_another_learning_rate_is_the_one_that_is_used(tmp_path, capsys):
    train(settings(tmp_path, *HALF))
    train(settings(tmp_path, *WHOLE, "training.learning_rate=0.01"), resume=True)
    assert "with other training.max_steps, training.learning_rate" in capsys.readouterr().err
    assert rates(tmp_path)["learning_rate"] == 0.01


@pytest.mark.parametrize(
    "part", ["image_encoder_learning_rate=0.05", "decoder_learning_rate=0", "image_encoder_learning_rate=0"]
)
def test_a_part_may_get_a_rate_of_its_own_or_be_frozen_or_freed(tmp_path, part):
    name, _, rate = part.partition("=")
    train(settings(tmp_path, *HALF))
    train(settings(tmp_path, *WHOLE, "training.max_steps=3", f"training.{part}"), resume=True)
    assert rates(tmp_path) == {"learning_rate": 0.0015, name: float(rate)}
    train(settings(tmp_path, *WHOLE, "training.max_steps=4"), resume=True)
    assert rates(tmp_path) == {"learning_rate": 0.0015}


def test_decay_momentum_and_schedule_are_those_of_now(tmp_path, monkeypatch):
    train(settings(tmp_path, *HALF))
    seen = []
    restore = RunState.restore
    monkeypatch.setattr(RunState, "restore", lambda self, *given: restore(self, *given) or seen.append(self))
    now = ["training.weight_decay=0.3", "training.adam_beta1=0.5", "training.adam_beta2=0.6"]
    now += ["training.lr_scheduler_type=linear", "training.learning_rate=0.4"]
    train(settings(tmp_path, "training.max_eval_samples=2", *now), resume=True)
    groups = seen[0].optimizer.param_groups
    assert {group["weight_decay"] for group in groups} == {0.3, 0.0}
    assert {tuple(group["betas"]) for group in groups} == {(0.5, 0.6)}
    assert rates(tmp_path)["learning_rate"] == 0.0  # linear, after the last of 4 steps
    assert [line["learning_rate"] for line in lines(tmp_path) if "loss" in line][2] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.tokenizer={kind: bpe, vocab_size: 300}", "the vocabulary, which .* is another than"),
        ("model.conditioning=separate", "`model.conditioning` is 'separate', but was 'concatenated'"),
        ("model.max_images=2", "`model.max_images` is 2, but was 1"),
        (
            "model.decoder={hidden_size: 32, num_layers: 1, num_heads: 4, intermediate_size: 32, max_positions: 24}",
            "`model.decoder.num_heads` is 4, but was 2",
        ),
    ],
    ids=["tokenizer", "mode", "images", "heads"],
)
def test_another_captioner_does_not_go_on_from_a_checkpoint(tmp_path, override, message):
    train(settings(tmp_path, *HALF, FEW_WORDS))
    with pytest.raises(CheckpointError, match=f"{message}.* when checkpoint-2 was written; a run goes on with"):
        train(settings(tmp_path, *WHOLE, FEW_WORDS, override), resume=True)
    assert len(losses(tmp_path)) == 2


def test_a_vocabulary_of_the_same_size_with_other_words_is_another(tmp_path):
    for name, word in (("first", "dog"), ("second", "cat")):
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{word}.png")
        rows = [f"{word}.png,a {word} {place}" for place in ("left", "right")]
        (tmp_path / f"{name}.csv").write_text("\n".join(["image,caption", *rows]))
    table = ["data.source=table", "data.validation_split=train", "training.per_device_train_batch_size=1", FEW_WORDS]
    table += ["model.context_encoder=null", *HALF]
    first, second = (settings(tmp_path / "run", *table, f"data.path={tmp_path / n}.csv") for n in ("first", "second"))
    train(first)
    with pytest.raises(CheckpointError, match="the vocabulary, which the texts of the training split .* is another"):
        train(second, resume=True)


def test_a_checkpoint_that_does_not_say_whose_it_is_is_refused_where_it_does_not_fit(tmp_path):
    train(settings(tmp_path, *HALF))
    file = tmp_path / "checkpoint-2/state.json"
    facts = json.loads(file.read_text())
    del facts["captioner"], facts["place"]
    file.write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match="checkpoint-2 is of another captioner"):
        train(settings(tmp_path, *WHOLE, "data.tokenizer={kind: bpe, vocab_size: 300}"), resume=True)
    train(settings(tmp_path, *WHOLE), resume=True)
    assert len(losses(tmp_path)) == 4


def test_dropout_may_change(tmp_path):
    train(settings(tmp_path, *HALF))
    train(settings(tmp_path, *WHOLE, "model.dropout=0.5"), resume=True)
    assert len(losses(tmp_path)) == 4


@pytest.mark.parametrize(
    "tail", [b'{"step": 2, "minu', b"12\n", b"\x00\x00\x00\n", b'["a"]\n', b'{"step": 3}\n', b"\xff\n"]
)
def test_what_a_kill_left_of_the_log_is_no_reason_to_stop(tmp_path, tail):
    train(settings(tmp_path, *HALF))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(tail)
    train(settings(tmp_path, *WHOLE, "training.max_steps=3"), resume=True)
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == [1, 2, 3]
