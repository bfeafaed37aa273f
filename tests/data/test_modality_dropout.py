"""Modalities are hidden as often as asked for, never all of a sample's, and the same again after a restart."""

import pytest
from runs import losses, settings

from captioner.data.modality_dropout import ModalityDropout
from captioner.training import train


class Numbered:
    """Samples with both modalities, one with only a context and one with nothing."""

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        image = None if index in (1, 2) else b"image"
        return {"image": image, "context": None if index == 2 else "words", "index": index, "epoch": self.epoch}


def test_modality_dropout_hides_as_often_as_it_should_and_never_everything():
    inner = Numbered()
    dataset = ModalityDropout(inner, {"image": 0.4, "context": 0.5})
    rounds = []
    for inner.epoch in (0, 1, 0):
        rounds.append([(dataset[i]["image"] is None, dataset[i]["context"] is None) for i in range(len(dataset))])
    assert rounds[0] == rounds[2] != rounds[1]
    assert rounds[0][1] == (True, False)
    assert rounds[0][2] == (True, True)
    rest = rounds[0][3:]
    assert (True, True) not in rest
    assert sum(image for image, _ in rest) / len(rest) == pytest.approx(0.4 * 0.5 + 0.4 * 0.5 / 2, abs=0.05)
    assert sum(context for _, context in rest) / len(rest) == pytest.approx(0.5 * 0.6 + 0.4 * 0.5 / 2, abs=0.05)


def test_a_run_with_modality_dropout_sees_other_batches(tmp_path):
    train(settings(tmp_path / "plain", "training.max_steps=2"))
    train(settings(tmp_path / "dropped", "training.max_steps=2", "data.modality_dropout={context: 1.0}"))
    assert losses(tmp_path / "plain") != losses(tmp_path / "dropped")
