"""Runs that are killed or stopped in the middle, and whether two checkpoints hold the same."""

import torch

from captioner.training.checkpoints import read_checkpoint

KILLED = """
import os, signal, sys
from captioner.training import loop as training
from captioner.base import load_settings

class Deadly(training.Gradients):
    steps = 0

    def __call__(self, micro_batches):
        Deadly.steps += 1
        if Deadly.steps == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(micro_batches)

training.Gradients = Deadly
training.train(load_settings(sys.argv[1]))
"""
TWO_PROCESSES = """
import sys
from accelerate import Accelerator
from captioner.training import loop as training
from captioner.base import leave, load_settings

class Stopped(RuntimeError):
    pass

class Stopping(training.Gradients):
    def __call__(self, micro_batches):
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 6:
            raise Stopped
        return super().__call__(micro_batches)

whole, broken = map(load_settings, sys.argv[1:])
Accelerator.end_training = lambda self: None  # the processes stay together for the next run
training.train(whole)
calm, training.Gradients = training.Gradients, Stopping
try:
    training.train(broken)
except Stopped:
    training.Gradients = calm
    training.train(broken, resume=True)
leave()
"""


def same_files(one, other):
    tensors, facts = read_checkpoint(one)
    others, more = read_checkpoint(other)
    assert {name: own.keys() for name, own in tensors.items()} == {name: own.keys() for name, own in others.items()}
    assert all(torch.equal(own[n], others[name][n]) for name, own in tensors.items() for n in own)
    del facts["settings"]["training"]["output_dir"], more["settings"]["training"]["output_dir"]
    assert facts == more
