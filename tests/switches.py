"""What a captioner says before and after its cross-attention is changed."""

import warnings

import torch
from conftest import tiny_batch

TOLERANCE = 1e-5
JOINT = ("separate", "joint")
CONCATENATED = ("concatenated",)
INPUTS, IDS = tiny_batch(samples=4)
LOOKING = {"pixel_values": INPUTS["pixel_values"]}
READING = {name: value for name, value in INPUTS.items() if name != "pixel_values"}
MIXED = INPUTS | {
    "image_mask": torch.tensor([True, False, True, True]),
    "context_attention_mask": INPUTS["context_attention_mask"] * torch.tensor([1, 1, 0, 1])[:, None],
}
BATCHES = {"both": INPUTS, "image only": LOOKING, "context only": READING, "mixed": MIXED}


@torch.no_grad()
def logits(model, inputs):
    return model.eval()(**inputs, decoder_input_ids=IDS).logits


def all_logits(model, batches=BATCHES):
    return {name: logits(model, inputs) for name, inputs in batches.items()}


def largest_change(before, after):
    return max((before[name] - after[name]).abs().max().item() for name in before)


def switch(model, mode):
    """Switch and return what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.switch_conditioning(*mode)
    return [str(warning.message) for warning in caught]


def train_a_little(model, steps=3):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        model(**INPUTS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
