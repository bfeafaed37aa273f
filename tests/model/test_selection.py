"""The largest of many numbers, found in runs: those of a plain top-k."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captioner.model import largest
from captioner.model.selection import RUN


@given(st.integers(1, 12 * RUN), st.integers(1, 8), st.integers(0, 9), st.sampled_from([8, RUN]))
def test_runs_find_what_a_plain_top_k_finds(words, count, seed, run):
    scores = torch.randn(2, 3, words, generator=torch.Generator().manual_seed(seed)).masked_fill(
        torch.arange(words) % 7 == seed, -torch.inf
    )
    count = min(count, words)
    values, tokens = largest(scores, count, run)
    assert torch.equal(values, scores.topk(count).values)
    assert torch.equal(scores.gather(-1, tokens), values)
    assert all(len(set(row)) == count for row in tokens.flatten(0, 1).tolist())


@pytest.mark.parametrize("place", [0, RUN - 1, RUN, 8 * RUN - 1, 8 * RUN, 8 * RUN + 2])
def test_the_largest_is_found_wherever_it_stands(place):
    scores = torch.zeros(1, 1, 8 * RUN + 3).index_fill(-1, torch.tensor(place), 1.0)
    assert largest(scores, 2)[1][0, 0, 0] == place
