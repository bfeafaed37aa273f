"""Texts longer than their encoder reads: encoded in overlapping windows, and stitched so that each token comes once.

A token's state is taken from the window in which it stands further from the border (as in BERT's reading of SQuAD
documents, Devlin et al. 2018, arXiv 1810.04805). Windows are cut here from ids, and not by a tokenizer's `stride` and
`return_overflowing_tokens`: so a batch has one row of ids per sample, each token once, whatever the encoder reads at a
time, and its words, memory and attribution keep their places. Knows ids and states; knows nothing about words.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class Window(NamedTuple):
    """Tokens `start`…`stop` are read together; of their states, those of `first`…`last` are kept."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class Windows:
    """How a long text is read.

    Args:
        length: tokens of a window, special tokens included.
        overlap: tokens that a window shares with the one before.
        opening: special tokens with which a text starts, put before every window but the first.
        closing: those with which it ends, put after every window but the last.

    Raises:
        ValueError: windows too short to go on.
    """

    length: int
    overlap: int = 0
    opening: Sequence[int] = ()
    closing: Sequence[int] = ()

    def __post_init__(self) -> None:
        most = self.length - len(self.opening) - len(self.closing)
        if not 0 <= self.overlap < most:
            raise ValueError(
                f"`context_window.overlap` must be from 0 to below {most} (`length` less special tokens), "
                f"but is {self.overlap}"
            )

    def plan(self, tokens: int) -> list[Window]:
        """The windows of a text; one where it fits. Every token is kept by exactly one of them."""
        if tokens <= self.length:
            return [Window(0, tokens, 0, tokens)]
        spans = [(0, self.length - len(self.closing))]
        while spans[-1][1] < tokens:
            start = spans[-1][1] - self.overlap
            left = self.length - len(self.opening)
            spans.append((start, tokens if start + left >= tokens else start + left - len(self.closing)))
        borders = [0, *((after + stop) // 2 for (_, stop), (after, _) in pairwise(spans)), tokens]
        return [Window(*span, *kept) for span, kept in zip(spans, pairwise(borders), strict=True)]

    def encode(self, encode: Callable[[Tensor, Tensor], Tensor], ids: Tensor, mask: Tensor) -> Tensor:
        """Ids (B, L) and mask (B, L) → states (B, L, D), 0 where masked.

        Args:
            encode: (R, W) ids and mask → (R, W, D); it is called once, for the windows of all samples.
        """
        texts = [row[real] for row, real in zip(ids, mask.bool(), strict=True)]
        plans = [self.plan(len(text)) for text in texts]
        opening, closing = ids.new_tensor(self.opening), ids.new_tensor(self.closing)
        pieces, kept = [], []
        for text, plan in zip(texts, plans, strict=True):
            for window in plan:
                before = opening if window.start else opening[:0]
                after = closing if window.stop < len(text) else closing[:0]
                pieces.append(torch.cat([before, text[window.start : window.stop], after]))
                place = len(before) - window.start
                kept.append(slice(window.first + place, window.last + place))
        lengths = torch.tensor([len(piece) for piece in pieces], device=ids.device)
        rows = pad_sequence(pieces, batch_first=True)
        states = encode(rows, torch.arange(rows.shape[1], device=ids.device) < lengths[:, None])
        stitched = states.new_zeros(*ids.shape, states.shape[-1])
        return stitched.masked_scatter(
            mask.bool()[:, :, None], torch.cat([own[part] for own, part in zip(states, kept, strict=True)])
        )
