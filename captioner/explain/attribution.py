"""What a finished caption rests on, once it is measured: for every word, which patches and which context tokens.

Attention is one witness; `saliency` (gradients) and `without` (log-probabilities when a modality is taken away) are two
others. Knows numbers and words; knows nothing about captioners, files or drawing. W words of the caption; other letters
as in every file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..model import Grid, Weights
from .words import Word

PART_NAMES = {  # of a row's balance, in words; further modalities are called by their own names
    "patches": "looked",
    "prefix": "looked (class and register tokens)",
    "context": "read",
}


class AttributionError(ValueError):
    """A caption or a captioner that nothing can be said about; the message says why."""


@dataclass(frozen=True)
class Attribution:
    """One caption and what its words rest on.

    What a resampler read counts by the tokens that it read, not by its latents.

    Args:
        words: W words of the caption; `tokens` are places in the caption.
        context: words of the context in reading order, special tokens as words of their own; `tokens` are places in
            L. Empty without context.
        grid: how the tokens of an image lie; None without image. Those of several come one after the other.
        attention: modality → (layers, H, W, S_m). Over all modalities together a row sums to 1 (to 0 where a layer
            had nothing to attend to); what of it belongs to one modality is that modality's share. How rows are split
            over modalities depends on the mode: see `recording`.
        rollout: modality → (W, S_m), attention rollout through all layers; rows as above.
        saliency: modality → (W, S_m), |gradient · state| of a word's log-probability, summed over D; rows as above.
        log_probability: (W,), natural logarithm, summed over a word's tokens.
        without: modality → (W,), the same when that modality is hidden.
    """

    words: list[Word]
    context: list[Word]
    grid: Grid | None
    attention: Weights
    rollout: Weights
    saliency: Weights
    log_probability: Tensor
    without: dict[str, Tensor]

    @property
    def caption(self) -> str:
        """The words, one space between."""
        return " ".join(word.text for word in self.words)

    def weights(self, method: str = "attention", layer: int | None = None, head: int | None = None) -> Weights:
        """Modality → (W, S_m) by one of `METHODS`; attention of one layer and head, or averaged over them.

        Raises:
            AttributionError: an unknown method, a layer or head that the decoder lacks, or one beside a method that
                goes through all of them.
        """
        if method not in METHODS:
            raise AttributionError(f"`method` must be one of {', '.join(METHODS)}, but is {method!r}")
        if method != "attention" and (layer is not None or head is not None):
            raise AttributionError(
                f"`layer` and `head` choose among the attention's, but `method` is {method!r}, which goes through all "
                "of them; leave them out"
            )
        return METHODS[method](self, layer, head)

    def shares(self, **choice: Any) -> dict[str, Tensor]:
        """Modality → (W,): the part of each row that belongs to it; `choice` as in `weights`."""
        return {name: own.sum(dim=-1) for name, own in self.weights(**choice).items()}

    def balance(self, **choice: Any) -> dict[str, Tensor]:
        """What of each row went to "patches", to "prefix" tokens of images, to "context", to each further modality.

        Returns:
            (W,) each.
        """
        shares, nothing = self.shares(**choice), torch.zeros(len(self.words))
        patches = nothing if self.grid is None else self._heats(**choice).sum(dim=(1, 2, 3))
        prefix = (shares.pop("image", nothing) - patches).clamp(min=0)
        return {"patches": patches, "prefix": prefix, "context": shares.pop("context", nothing), **shares}

    def heat(self, image: int = 0, **choice: Any) -> Tensor:
        """An image's part of `weights` on its grid, (W, height, width); what prefix tokens received is left out.

        Args:
            image: which of the sample's, counted from 0.

        Raises:
            AttributionError: the caption was made without an image, or with fewer.
        """
        if self.grid is None:
            raise AttributionError("no heat map: the caption was made without an image")
        heats = self._heats(**choice)
        if not 0 <= image < heats.shape[1]:
            raise AttributionError(f"`image` must lie in 0…{heats.shape[1] - 1}, but is {image}")
        return heats[:, image]

    def _heats(self, **choice: Any) -> Tensor:
        """(W, I, height, width)."""
        prefix, height, width = self.grid
        images = self.weights(**choice)["image"].unflatten(-1, (-1, prefix + height * width))
        return images[..., prefix:].unflatten(-1, (height, width))

    def reading(self, **choice: Any) -> Tensor:
        """The context's part of `weights` by context word, (W, words); tokens of a word summed."""
        if not self.context:
            return torch.zeros(len(self.words), 0)
        weights = self.weights(**choice)["context"]
        return torch.stack([weights[:, list(word.tokens)].sum(dim=-1) for word in self.context], dim=-1)


def _attention(of: Attribution, layer: int | None, head: int | None) -> Weights:
    sizes = next(iter(of.attention.values())).shape
    for name, value, size in (("layer", layer, sizes[0]), ("head", head, sizes[1])):
        if value is not None and not -size <= value < size:
            raise AttributionError(f"`{name}` must lie in 0…{size - 1} (or count from the end), but is {value}")
    layers = slice(None) if layer is None else [layer]
    heads = slice(None) if head is None else [head]
    return {name: own[layers][:, heads].mean(dim=(0, 1)) for name, own in of.attention.items()}


METHODS: dict[str, Callable[[Attribution, int | None, int | None], Weights]] = {
    "attention": _attention,
    "rollout": lambda of, layer, head: of.rollout,
    "saliency": lambda of, layer, head: of.saliency,
}
