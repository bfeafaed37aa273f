"""A loss that is no number: the run stops at the first, the good checkpoint stays, and all that is written is JSON."""

import json
import math

import pytest
import torch
from runs import lines, settings

from captioner import load
from captioner.base import SettingsError
from captioner.evaluation import evaluate
from captioner.evaluation.weights import WeightsError
from captioner.training import loop, train
from captioner.training.divergence import MOST_SKIPPED, DivergedError, Divergence
from captioner.training.state import RunState

STEADY = ["training.max_steps=6", "training.save_steps=2", "training.lr_scheduler_type=constant"]


def spoil(monkeypatch, steps, value=math.nan, gradient=False):
    """Let the loss of some steps, or its gradient alone, be no finite number."""
    taken = []

    class Spoilt(loop.Gradients):
        def __call__(self, micro_batches):
            taken.append(None)
            loss = super().__call__(micro_batches)
            if len(taken) in steps and gradient:
                next(p for p in self.model.parameters() if p.grad is not None).grad.view(-1)[0] = value
            return loss * value if len(taken) in steps and not gradient else loss

    monkeypatch.setattr(loop, "Gradients", Spoilt)


def strict(directory):
    """Every line of a log by the letter of JSON."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    for file in ("metrics.jsonl", *(f"{path.name}/state.json" for path in directory.glob("checkpoint-*"))):
        for line in (directory / file).read_text().splitlines():
            json.loads(line, parse_constant=refuse)


@pytest.mark.parametrize(("value", "gradient"), [(math.nan, False), (math.inf, False), (math.nan, True)])
def test_the_run_stops_at_the_first_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch, value, gradient):
    spoil(monkeypatch, {4}, value, gradient)
    what = "a gradient is" if gradient else rf"the loss \({value}\) is"
    with pytest.raises(DivergedError, match=f"step 4: {what} no finite number; .*checkpoint-2 is good, and --resume"):
        train(settings(tmp_path, *STEADY))
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == [1, 2, 3]
    strict(tmp_path)
    for name in ("best", "last"):
        assert all(weight.isfinite().all() for weight in load(tmp_path / name)[0].state_dict().values())
    monkeypatch.undo()
    train(settings(tmp_path, *STEADY), resume=True)
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == [1, 2, 3, 4, 5, 6]


def test_an_option_goes_on_without_the_step(tmp_path, monkeypatch, capsys):
    spoil(monkeypatch, {2, 4})
    train(settings(tmp_path, *STEADY, "training.skip_nan_steps=true", "training.average_decay=0.5"))
    logged = [line for line in lines(tmp_path) if "learning_rate" in line]
    assert [line.get("skipped_steps") for line in logged] == [None, 1, None, 1, None, None]
    assert ["loss" in line for line in logged] == [True, False, True, False, True, True]
    strict(tmp_path)
    assert "step 4: the loss (nan) is no finite number, so the step is left out, 2 so far" in capsys.readouterr().err
    facts = json.loads((tmp_path / "checkpoint-6/state.json").read_text())
    assert facts["schedule"]["last_epoch"] == facts["average_updates"] == 4
    assert all(weight.isfinite().all() for weight in load(tmp_path / "last")[0].state_dict().values())


def test_a_run_that_leaves_out_every_step_ends(tmp_path, monkeypatch):
    divergence = Divergence(settings(tmp_path, "training.skip_nan_steps=true"), False, None)
    for step in range(MOST_SKIPPED):
        divergence.note(step, torch.tensor(math.nan), False)
    with pytest.raises(DivergedError, match=f"as in the {MOST_SKIPPED} steps before; no checkpoint was written yet"):
        divergence.note(MOST_SKIPPED, torch.tensor(math.nan), False)


def test_gradients_that_overflow_in_half_precision_are_no_reason_to_stop(tmp_path):
    divergence = Divergence(settings(tmp_path), True, None)
    for step in range(MOST_SKIPPED):
        divergence.note(step, torch.tensor(1.0), False)
    divergence.note(MOST_SKIPPED, torch.tensor(1.0), True)
    assert divergence.running == 0
    with pytest.raises(DivergedError, match="the loss \\(nan\\)"):
        divergence.note(1, torch.tensor(math.nan), False)


def test_weights_that_are_no_numbers_are_neither_validated_nor_saved(tmp_path, monkeypatch):
    step = RunState.step

    def spoilt(self, loss):
        taken = step(self, loss)
        if self.schedule.last_epoch == 4:
            with torch.no_grad():
                self.model.decoder.token_embedding.weight[0] = math.inf
        return taken

    monkeypatch.setattr(RunState, "step", spoilt)
    with pytest.raises(
        WeightsError, match=r"hold NaN or infinity \(decoder.token_embedding.weight.*checkpoint-2 is good"
    ):
        train(settings(tmp_path, *STEADY))
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2"]
    for name in ("best", "last"):
        assert all(weight.isfinite().all() for weight in load(tmp_path / name)[0].state_dict().values())


def test_a_captioner_whose_weights_are_no_numbers_is_not_scored(tmp_path):
    train(settings(tmp_path, "training.max_steps=1"))
    model, processor = load(tmp_path / "last")
    with torch.no_grad():
        model.lm_head.weight[3, 0] = math.nan
    with pytest.raises(WeightsError, match="of the captioner hold NaN or infinity"):
        evaluate(model, processor, [], settings(tmp_path).generation)


def test_steps_of_deepspeed_cannot_be_left_out(tmp_path):
    with pytest.raises(SettingsError, match="DeepSpeed takes its steps by itself"):
        Divergence(settings(tmp_path, "training.skip_nan_steps=true"), False, "DEEPSPEED")
