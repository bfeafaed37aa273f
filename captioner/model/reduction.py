"""Long memories made short before anything attends to them: patches averaged, or read by a few learned queries.

Knows states, masks and how patches lie on a picture; knows nothing about encoders. Shape letters B, S, D as in every
file; R latents.
"""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import CrossAttention
from .configuration import DecoderConfig
from .layers import PreNorm


class Grid(NamedTuple):
    """How image tokens lie on the picture: `prefix` tokens that see all of it, then `height` rows of `width`."""

    prefix: int
    height: int
    width: int


def nearest_grid(prefix: int, tokens: int, height: int, width: int) -> Grid:
    """How `tokens` tokens of a picture of `height` × `width` lie on it.

    Of the grids with that many cells, the one whose cells are nearest to squares is taken: what every backbone of
    square patches or equal strides has.
    """
    cells = tokens - prefix
    heights = [rows for rows in range(1, cells + 1) if cells % rows == 0]
    rows = min(heights, key=lambda rows: abs(math.log(rows * rows * width / (cells * height))))
    return Grid(prefix, rows, cells // rows)


class Pool(nn.Module):
    """Patches averaged p × p; at the border of a grid that p does not divide, what there is.

    Args:
        size: p.
    """

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, states: Tensor, grid: Grid) -> Tensor:
        """(B, prefix + height·width, D) → (B, prefix + ⌈height/p⌉·⌈width/p⌉, D); prefix tokens stay as they are."""
        prefix, patches = states.split([grid.prefix, grid.height * grid.width], dim=1)
        cells = patches.transpose(1, 2).unflatten(2, (grid.height, grid.width))
        pooled = F.avg_pool2d(cells, self.size, ceil_mode=True, count_include_pad=False)
        return torch.cat([prefix, pooled.flatten(2).transpose(1, 2)], dim=1)


class ResamplerLayer(nn.Module):
    """Latents attend to the states and to each other in one softmax, then pass a feed-forward network."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.state_norm = nn.LayerNorm(width)
        self.attention, self.attention_residual = CrossAttention(config, width, -1), PreNorm(config)
        self.feed_forward = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        self.feed_residual = PreNorm(config)

    def forward(self, latents: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Latents (B, R, D), states (B, S, D), mask (B, S + R) → (B, R, D)."""
        states = self.state_norm(states)
        latents = self.attention_residual(
            latents, lambda h: self.attention(h, torch.cat([states, h], dim=1), mask, None)
        )
        return self.feed_residual(latents, self.feed_forward)


class Resampler(nn.Module):
    """R learned queries read a memory of any length ("Perceiver resampler" of Flamingo, arXiv 2204.14198).

    Args:
        width: D.
        latents: R.
        layers, heads: of the resampler.

    Raises:
        ValueError: a width that the heads do not divide.
    """

    def __init__(self, width: int, latents: int, layers: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"`resampler.heads` must divide the memory's width {width}, but is {heads}")
        config = DecoderConfig(hidden_size=width, num_heads=heads, dropout=0.0)
        config._attn_implementation = "sdpa"
        self.latents = nn.Embedding(latents, width)
        self.layers = nn.ModuleList(ResamplerLayer(config) for _ in range(layers))
        self.final_norm = nn.LayerNorm(width)

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, S, D) and mask (B, S) → (B, R, D) and (B, R); a sample with nothing to read stays without."""
        latents = self.latents.weight.expand(len(states), -1, -1)
        both = torch.cat([mask, mask.new_ones(latents.shape[:2])], dim=1)
        for layer in self.layers:
            latents = layer(latents, states, both)
        present = mask.any(dim=1, keepdim=True).expand(latents.shape[:2])
        return self.final_norm(latents).masked_fill(~present[:, :, None], 0.0), present

    @torch.no_grad()
    def sources(self, states: Tensor, mask: Tensor) -> Tensor:
        """What each latent rests on, by attention rollout through the layers: (B, R, S), rows summing to 1 or 0."""
        recorded: list[Tensor] = []
        hooks = [layer.attention.register_forward_hook(partial(_record_weights, recorded)) for layer in self.layers]
        try:
            self(states, mask)
        finally:
            for hook in hooks:
                hook.remove()
        reached = torch.zeros(())
        for weights in recorded:
            outside, among = weights.split([states.shape[1], weights.shape[2] - states.shape[1]], dim=2)
            carried = reached if reached.ndim == 0 else (reached + among @ reached) / 2
            reached = carried + outside / 2
        total = reached.sum(dim=-1, keepdim=True)
        return reached / total.masked_fill(total == 0, 1.0)


def _record_weights(recorded: list[Tensor], attention: CrossAttention, inputs: tuple, output: Tensor) -> None:
    """The weights (B, R, S + R) of an attention, its heads averaged."""
    h, states, mask, _ = inputs
    keys, _ = attention.keys_and_values(states)
    recorded.append(attention.kind.weights(attention.queries(h), keys, mask).mean(dim=1))
