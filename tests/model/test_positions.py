"""Where a token stands follows the mask: prompts of several lengths, padded on the left, are what they are alone."""

import pytest
import torch
from conftest import NORMS, tiny_batch, tiny_captioner
from torch.nn import functional as F

KINDS = {
    "learned": {},
    "rotary": {"positions": "rotary"},
    "rotary, grouped": {"positions": "rotary", "num_key_value_heads": 1, "feed_forward": "gated", "norm": "rms"},
    "rotary, scaled": {
        "positions": "rotary",
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0},
    },
}
every_kind = pytest.mark.parametrize("kind", KINDS)
close = {"atol": 1e-5, "rtol": 0}


def captioner(kind, norm="pre"):
    return tiny_captioner("concatenated", None, norm, decoder=KINDS[kind])


def left_padded(ids, lengths):
    """Rows of ids (N, T), of each its first tokens, with padding before them; and the mask."""
    mask = torch.stack([F.pad(torch.ones(n), (ids.shape[1] - n, 0)) for n in lengths]).long()
    rows = [F.pad(row[:n], (ids.shape[1] - n, 0)) for row, n in zip(ids, lengths, strict=True)]
    return torch.stack(rows), mask


@every_kind
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_row_padded_on_the_left_has_the_logits_of_the_row_alone(kind, norm, implementation):
    model = captioner(kind, norm)
    model.set_attn_implementation(implementation)
    inputs, ids = tiny_batch(samples=3, tokens=6)
    lengths = (6, 4, 1)
    rows, mask = left_padded(ids, lengths)
    memory = model.encode(**inputs)
    found = model.decode(rows, memory, mask).logits
    for i, length in enumerate(lengths):
        alone = model.decode(ids[i : i + 1, :length], memory.select(torch.tensor([i]))).logits
        torch.testing.assert_close(found[i, 6 - length :], alone[0], **close)


@every_kind
def test_a_token_after_cached_ones_stands_behind_those_that_are_real(kind):
    model = captioner(kind)
    inputs, ids = tiny_batch(samples=2, tokens=6)
    rows, mask = left_padded(ids, (6, 3))
    memory = model.encode(**inputs)
    whole = model.decode(rows, memory, mask).logits
    first = model.decode(rows[:, :4], memory, mask[:, :4], use_cache=True)
    rest = [model.decode(rows[:, t : t + 1], memory, mask[:, : t + 1], cache=first.cache).logits for t in (4, 5)]
    torch.testing.assert_close(torch.cat([first.logits, *rest], dim=1)[mask.bool()], whole[mask.bool()], **close)


@every_kind
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"cache_implementation": "static"}], ids=str)
def test_prompts_of_several_lengths_are_continued_as_each_alone(kind, options):
    model = captioner(kind)
    inputs, ids = tiny_batch(samples=2, tokens=4)
    rows, mask = left_padded(ids, (4, 2))
    options = {"max_new_tokens": 5, "min_new_tokens": 5} | options
    together = model.generate(**inputs, decoder_input_ids=rows, decoder_attention_mask=mask, **options)
    for i, length in enumerate((4, 2)):
        own = {name: value[i : i + 1] for name, value in inputs.items()}
        alone = model.generate(**own, decoder_input_ids=ids[i : i + 1, :length], **options)
        assert together[i, -5:].tolist() == alone[0, -5:].tolist()


@every_kind
def test_padding_on_the_right_and_a_mask_of_ones_move_nothing(kind):
    model = captioner(kind)
    inputs, ids = tiny_batch(samples=2, tokens=5)
    memory = model.encode(**inputs)
    plain = model.decode(ids, memory).logits
    assert torch.equal(model.decode(ids, memory, torch.ones_like(ids)).logits, plain)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    torch.testing.assert_close(model.decode(ids, memory, mask).logits[0, :3], plain[0, :3], **close)


@every_kind
def test_a_traced_captioner_has_the_same_positions(kind, monkeypatch):
    model = captioner(kind)
    inputs, ids = tiny_batch(samples=3, tokens=6)
    rows, mask = left_padded(ids, (6, 4, 1))
    memory = model.encode(**inputs)
    expected = [model.decode(rows, memory, own).logits for own in (mask, mask.flip(1))]
    monkeypatch.setattr("captioner.model.decoder.is_tracing", lambda tensor: True)
    for own, logits in zip((mask, mask.flip(1)), expected, strict=True):
        torch.testing.assert_close(model.decode(rows, memory, own).logits[own.bool()], logits[own.bool()], **close)
