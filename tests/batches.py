"""A batch with captions to learn, that several test files train on."""

from conftest import tiny_batch


def training_batch(samples=4, captions=2):
    inputs, ids = tiny_batch(samples, captions)
    return {**inputs, "decoder_input_ids": ids, "labels": ids.roll(-1, dims=1)}
