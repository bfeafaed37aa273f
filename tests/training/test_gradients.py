"""The gradients of a step are the same when memory runs out and a batch is worked on in pieces."""

import pytest
import torch
from accelerate import Accelerator
from batches import training_batch
from conftest import tiny_captioner

from captioner.base import SettingsError
from captioner.training.gradients import Gradients, split
from captioner.training.objectives import CrossEntropy


class SmallMemory(CrossEntropy):
    """Runs out of memory with more than `most` images."""

    def __init__(self, most):
        super().__init__()
        self.most, self.seen = most, []

    def loss(self, model, batch):
        self.seen.append(len(batch["pixel_values"]))
        if self.seen[-1] > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().loss(model, batch)


def gradients_of(objective, batches):
    model = tiny_captioner("separate")
    loss = Gradients(Accelerator(cpu=True), model, objective)(batches)
    return loss, {name: p.grad for name, p in model.named_parameters()}


def test_out_of_memory_halves_the_images_at_once_and_changes_no_gradient(capsys):
    batches = [training_batch(7), training_batch(5)]
    small = SmallMemory(2)
    loss, expected = gradients_of(CrossEntropy(), batches)
    other, got = gradients_of(small, batches)
    assert small.seen == [7, 4, 2, 2, 2, 1, 2, 2, 1]
    assert "out of memory: from now on 2 images at once" in capsys.readouterr().err
    torch.testing.assert_close(other, loss)
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, msg=name)


def test_one_image_that_does_not_fit_is_explained():
    with pytest.raises(SettingsError, match="out of memory with 1 images at once; halve"):
        gradients_of(SmallMemory(0), [training_batch(2)])


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    class Broken(CrossEntropy):
        def loss(self, model, batch):
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        gradients_of(Broken(), [training_batch(2)])


def test_pieces_keep_each_image_with_its_captions():
    pieces = list(split(training_batch(5, captions=3), 2))
    assert [len(piece["pixel_values"]) for piece in pieces] == [3, 2]
    assert [len(piece["labels"]) for piece in pieces] == [9, 6]
    joined = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
    assert all(torch.equal(joined[name], value) for name, value in training_batch(5, captions=3).items())
