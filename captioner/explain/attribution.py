"""What a finished caption rests on: for every word, which patches and which context tokens, and how much of each.

One teacher-forced pass over the caption, so it works after any search and on any attention backend. Attention is one
witness; `saliency` (gradients) and `without` (log-probabilities when a modality is taken away) are two others. Knows
nothing about files or drawing. W words of the caption; other letters as in every file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..model import IGNORED_LABEL, Captioner, CaptionerProcessor, Grid, ImageEncoder, Memory, nearest_grid
from .recording import Weights, record, rollout


class AttributionError(ValueError):
    """A caption or a captioner that nothing can be said about; the message says why."""


class Word(NamedTuple):
    """A word and the places of its tokens."""

    text: str
    tokens: tuple[int, ...]


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
            AttributionError: an unknown method, or a layer or head that the decoder lacks.
        """
        if method not in METHODS:
            raise AttributionError(f"`method` must be one of {', '.join(METHODS)}, but is {method!r}")
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


def attribute(
    model: Captioner,
    processor: CaptionerProcessor,
    caption: str | Sequence[int] | Tensor,
    image: Any = None,
    context: str | None = None,
    **further: Any,
) -> Attribution:
    """Look into one finished caption.

    Args:
        caption: its text, or its ids (T,) as any search gives them, with or without start, end and padding.
        image: what the processor reads, a list of several, or None.
        context: text, or None.
        further: further modalities by name.

    Raises:
        AttributionError: an empty caption, or one that is longer than the decoder's positions.
    """
    given = {"images": image, "context": context, **further}
    inputs = processor(**{name: [value] for name, value in given.items() if value is not None})
    return attribute_inputs(model, processor, caption, inputs)


def attribute_inputs(
    model: Captioner, processor: CaptionerProcessor, caption: str | Sequence[int] | Tensor, inputs: dict[str, Tensor]
) -> Attribution:
    """As `attribute`, of one sample that is tensors already: the encoders' keywords, B = 1."""
    own = _caption_ids(processor, caption, model.config.decoder.max_positions)
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    ids = torch.tensor([[processor.start_token_id, *own]], device=model.device)
    words = group_words(own, processor.tokenizer)
    if not words:
        raise AttributionError("the caption has no words; there is nothing to look into")
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            memory, sources = _encode(model, inputs)
            seen = record(model, ids[:, :-1], memory)
            # A modality that is not even in the memory has nothing that could be hidden.
            hidden = {name: model.decode(ids[:, :-1], memory.without(name)).logits for name in memory.states}
        saliency = _saliency(model, ids, memory, words)
    finally:
        model.train(was_training)
    layers = {name: torch.stack([own[name][0] for own in seen.crossing]) for name in memory.states}
    attention = _through({name: _merge(own, words).cpu() for name, own in layers.items()}, sources)
    return Attribution(
        words,
        _context_words(processor, inputs),
        _grid(model, inputs, memory, attention),
        attention,
        _through({name: _merge(own[0], words).cpu() for name, own in rollout(seen).items()}, sources),
        _through(saliency, sources),
        _log_probability(seen.logits, ids, words),
        {name: _log_probability(logits, ids, words) for name, logits in hidden.items()},
    )


def _encode(model: Captioner, inputs: dict[str, Tensor]) -> tuple[Memory, Weights]:
    """The memory; and where a resampler made it, what each latent rests on: modality → (R, S_m)."""
    resamplers, read = model.encoder.resamplers, {}
    hooks = [
        resampler.register_forward_pre_hook(lambda module, given, name=name: read.update({name: given}))
        for name, resampler in resamplers.items()
    ]
    try:
        memory = model.encode(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return memory, {name: resamplers[name].sources(*given)[0].cpu() for name, given in read.items()}


def _through(weights: Weights, sources: Weights) -> Weights:
    """Weights of latents (…, R) to weights of what they rest on (…, S_m)."""
    return {name: own @ sources[name] if name in sources else own for name, own in weights.items()}


def _caption_ids(processor: CaptionerProcessor, caption: str | Sequence[int] | Tensor, most: int) -> list[int]:
    """The ids between start token and end."""
    if isinstance(caption, str):
        row = processor(captions=caption)["labels"][0].tolist()
    else:
        row = caption.tolist() if isinstance(caption, Tensor) else list(caption)
        row = row[1:] if row[:1] == [processor.start_token_id] else row
    row = row[: row.index(processor.eos_token_id)] if processor.eos_token_id in row else row
    row = [token for token in row if token != IGNORED_LABEL]
    if len(row) > most:
        raise AttributionError(f"the caption has {len(row)} tokens, but the decoder has {most} positions; shorten it")
    return row


def group_words(ids: Sequence[int], tokenizer: Any) -> list[Word]:
    """Sub-tokens to the words that they spell; a word is what stands between spaces in the decoded text.

    A token belongs to the last word of the text up to it, whatever marks the tokenizer uses; so scripts without
    spaces come out as one word.
    """
    words = tokenizer.decode(ids).split()
    places: list[list[int]] = [[] for _ in words]
    last = 0
    for i in range(len(ids)):
        spelt = len(tokenizer.decode(ids[: i + 1]).split())
        last = min(max(last, spelt - 1), len(words) - 1)
        places[last].append(i)
    return [Word(text, tuple(own)) for text, own in zip(words, places, strict=True) if own]


def _context_words(processor: CaptionerProcessor, inputs: dict[str, Tensor]) -> list[Word]:
    """The words of the first context; each special token is a word, padding is left out."""
    if "context_input_ids" not in inputs:
        return []
    tokenizer = processor.context_tokenizer or processor.tokenizer
    ids = inputs["context_input_ids"][0].tolist()
    there = inputs["context_attention_mask"][0].tolist()
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    plain = [i for i, token in enumerate(ids) if there[i] and token not in special]
    words = [
        Word(word.text, tuple(plain[i] for i in word.tokens))
        for word in group_words([ids[i] for i in plain], tokenizer)
    ]
    marks = [
        Word(tokenizer.convert_ids_to_tokens(token), (i,))
        for i, token in enumerate(ids)
        if there[i] and token in special
    ]
    return sorted(words + marks, key=lambda word: word.tokens)


def _merge(rows: Tensor, words: Sequence[Word]) -> Tensor:
    """Rows of tokens (…, T, S) to the mean row of each word (…, W, S)."""
    return torch.stack([rows[..., list(word.tokens), :].mean(dim=-2) for word in words], dim=-2)


def _token_log_probability(logits: Tensor, ids: Tensor) -> Tensor:
    """Logits (N, T, V) and ids (N, 1 + T) → (N, T)."""
    return logits.float().log_softmax(dim=-1).gather(-1, ids[:, 1:, None]).squeeze(-1)


def _log_probability(logits: Tensor, ids: Tensor, words: Sequence[Word]) -> Tensor:
    """(W,) on the CPU, a word's tokens summed."""
    tokens = _token_log_probability(logits, ids)[0].detach().cpu()
    return torch.stack([tokens[list(word.tokens)].sum() for word in words])


def _saliency(model: Captioner, ids: Tensor, memory: Memory, words: Sequence[Word]) -> Weights:
    """|gradient · state| (Shrikumar et al. 2016, arXiv 1605.01713) of each word, rows summing to 1 or 0.

    Every word has a row of its own with the same memory, so that one backward pass gives all W gradients.
    """
    count = len(words)
    states = {name: own.detach().repeat(count, 1, 1).requires_grad_() for name, own in memory.states.items()}
    masks = {name: mask.repeat(count, 1) for name, mask in memory.masks.items()}
    rows = ids.repeat(count, 1)
    with torch.enable_grad():
        logits = model.decode(rows[:, :-1], Memory(states=states, masks=masks)).logits
        tokens = _token_log_probability(logits, rows)
        total = sum(tokens[i, list(word.tokens)].sum() for i, word in enumerate(words))
        gradients = torch.autograd.grad(total, list(states.values()))
    found = {
        name: ((own * gradient).sum(dim=-1).abs() * masks[name]).detach().cpu()
        for (name, own), gradient in zip(states.items(), gradients, strict=True)
    }
    rows_total = sum(own.sum(dim=-1, keepdim=True) for own in found.values())
    rows_total = rows_total.masked_fill(rows_total == 0, 1.0)
    return {name: own / rows_total for name, own in found.items()}


def _grid(model: Captioner, inputs: dict[str, Tensor], memory: Memory, attention: Weights) -> Grid | None:
    """None also where the sample's image is absent."""
    if "image" not in memory.states or not memory.masks["image"].any():
        return None
    pixels = inputs["pixel_values"]
    images = pixels.shape[1] if pixels.ndim == 5 else 1
    return image_grid(model.encoder.image, *pixels.shape[-2:], attention["image"].shape[-1] // images)


def image_grid(image: ImageEncoder, height: int, width: int, tokens: int) -> Grid:
    """How the `tokens` of a picture of `height` × `width` pixels lie on it; see `grids.nearest_grid`."""
    return nearest_grid(image.prefix, tokens, height, width)
