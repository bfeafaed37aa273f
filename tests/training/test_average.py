"""The moving average of the weights: what it is after some steps, and that the model has its own weights back."""

import torch
from runs import losses, settings

from captioner import load
from captioner.training import train
from captioner.training.average import WeightAverage


def test_the_average_follows_the_weights_and_takes_their_place_for_a_while():
    model = torch.nn.Linear(2, 1, bias=False)
    average = WeightAverage(model, decay=0.9)
    values = [1.0, 2.0, 4.0]
    for value in values:
        torch.nn.init.constant_(model.weight, value)
        average.update()
    expected = 1.0 * (2 / 11) + 2.0 * (9 / 11)  # after one update the decay is 2 / 11, then 3 / 12
    expected = expected * 3 / 12 + 4.0 * 9 / 12
    with average.in_place():
        torch.testing.assert_close(model.weight.detach(), torch.full((1, 2), expected))
    assert torch.equal(model.weight.detach(), torch.full((1, 2), 4.0))


def test_the_average_of_the_weights_is_what_is_kept(tmp_path):
    train(settings(tmp_path / "plain"))
    train(settings(tmp_path / "averaged", "training.average_decay=0.9"))
    plain, averaged = (load(tmp_path / name / "last")[0].state_dict() for name in ("plain", "averaged"))
    assert losses(tmp_path / "plain") == losses(tmp_path / "averaged")
    assert any(not torch.equal(plain[name], averaged[name]) for name in plain)
