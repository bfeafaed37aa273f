"""Pooled patches and resampled memories against their definitions, and the grids that patches lie on."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.model import Grid, nearest_grid
from captioner.model.reduction import Pool, Resampler


@settings(max_examples=30)
@given(height=st.integers(1, 7), width=st.integers(1, 7), prefix=st.integers(0, 2), size=st.integers(2, 4))
def test_a_pooled_patch_is_the_mean_of_its_cells_and_prefix_tokens_stay(height, width, prefix, size):
    states = torch.randn(2, prefix + height * width, 3, generator=torch.Generator().manual_seed(0))
    pooled = Pool(size)(states, Grid(prefix, height, width))
    cells = states[:, prefix:].unflatten(1, (height, width))
    expected = [
        cells[:, top : top + size, left : left + size].mean(dim=(1, 2))
        for top in range(0, height, size)
        for left in range(0, width, size)
    ]
    assert torch.equal(pooled[:, :prefix], states[:, :prefix])
    torch.testing.assert_close(pooled[:, prefix:], torch.stack(expected, dim=1))


def resampler():
    torch.manual_seed(0)
    made = Resampler(16, latents=5, layers=2, heads=2)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def test_a_resampler_reads_what_it_may_and_padding_changes_nothing():
    states = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(7) < torch.tensor([[7], [3]])
    read = resampler()
    latents, there = read(states, mask)
    assert latents.shape == (2, 5, 16)
    assert there.all()
    padded = torch.cat([states, states + 9], dim=1), torch.cat([mask, torch.zeros_like(mask)], dim=1)
    torch.testing.assert_close(read(*padded)[0], latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read(states[1:, :3], mask[1:, :3])[0], latents[1:], atol=1e-5, rtol=1e-5)
    assert (read(states + mask[..., None] * torch.randn(16), mask)[0] - latents).abs().min(dim=0).values.max() > 1e-3


def test_a_resampler_gives_zeros_and_finite_gradients_where_nothing_is_to_be_read():
    states = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    read = resampler()
    latents, there = read(states, torch.arange(7) < torch.tensor([[4], [0]]))
    assert (latents[1] == 0).all()
    assert there.tolist() == [[True] * 5, [False] * 5]
    latents.square().mean().backward()
    assert (states.grad[1] == 0).all()
    assert all(parameter.grad.isfinite().all() for parameter in read.parameters())


def test_what_latents_rest_on_is_found_by_attention_alone():
    read, states = resampler(), torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(0))
    read.layers = read.layers[:1]
    (layer,) = read.layers
    found = read.sources(states, torch.ones(1, 4, dtype=torch.bool))
    h = layer.attention_residual.norm(read.latents.weight)
    query, key = layer.attention.query(h), layer.attention.key(torch.cat([layer.state_norm(states[0]), h]))
    heads = [(query[:, part] @ key[:, part].T / 8**0.5).softmax(-1)[:, :4] for part in (slice(0, 8), slice(8, 16))]
    expected = sum(heads) / sum(heads).sum(-1, keepdim=True)
    torch.testing.assert_close(found[0], expected)


def test_squares_are_the_cells_of_a_grid():
    assert nearest_grid(1, 197, 224, 224) == Grid(1, 14, 14)
    assert nearest_grid(0, 24, 60, 90) == Grid(0, 4, 6)
