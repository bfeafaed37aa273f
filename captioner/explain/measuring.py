"""A captioner and a finished caption to what the caption rests on.

One teacher-forced pass over the caption, so it works after any search and on any attention backend; one more for each
modality that is hidden, one with gradients. Knows nothing about files or drawing. W words of the caption, R latents of
a resampler; other letters as in every file.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..adopt import find_unknown
from ..base import some
from ..cpu import wide_products
from ..model import (
    IGNORED_LABEL,
    PLAIN_TEXT,
    Captioner,
    CaptionerProcessor,
    Grid,
    ImageEncoder,
    Memory,
    Weights,
    nearest_grid,
)
from .attribution import Attribution, AttributionError
from .recording import record, rollout
from .words import Word, context_words, group_words


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
        AttributionError: an empty caption, one that is longer than the decoder's positions, or one with words that
            the vocabulary lacks.
    """
    given = {"images": image, "context": context, **further}
    inputs = processor(**{name: [value] for name, value in given.items() if value is not None})
    return attribute_inputs(model, processor, caption, inputs)


def attribute_inputs(
    model: Captioner, processor: CaptionerProcessor, caption: str | Sequence[int] | Tensor, inputs: dict[str, Tensor]
) -> Attribution:
    """As `attribute`, of one sample that is tensors already: the encoders' keywords, B = 1.

    Raises:
        AttributionError: as `attribute`.
    """
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
            recording = record(model, ids[:, :-1], memory)
            # A modality that is not even in the memory has nothing that could be hidden.
            hidden = {name: model.decode(ids[:, :-1], memory.without(name)).logits for name in memory.states}
        saliency = _saliency(model, ids, memory, words)
    finally:
        model.train(was_training)
    layers = {name: torch.stack([own[name][0] for own in recording.cross_attention]) for name in memory.states}
    reached = {name: own[0] for name, own in rollout(recording).items()}
    attention = _through(_by_word(layers, words), sources)
    return Attribution(
        words,
        _context(processor, inputs),
        _grid(model, inputs, memory, attention),
        attention,
        _through(_by_word(reached, words), sources),
        _through(saliency, sources),
        _log_probability(recording.logits, ids, words),
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
        with wide_products(model.device):
            memory = model.encode(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return memory, {name: resamplers[name].sources(*given)[0].cpu() for name, given in read.items()}


def _through(weights: Weights, sources: Weights) -> Weights:
    """Weights of latents (…, R) to weights of what they rest on (…, S_m)."""
    return {name: own @ sources[name] if name in sources else own for name, own in weights.items()}


def _caption_ids(processor: CaptionerProcessor, caption: str | Sequence[int] | Tensor, most: int) -> list[int]:
    """The ids between start token and end, all of them."""
    if isinstance(caption, str):
        unknown = find_unknown(processor.tokenizer, [caption]).words
        if unknown:
            raise AttributionError(f"the captioner's vocabulary cannot write {some(unknown)}; use other words")
        row = processor.tokenizer(caption, **PLAIN_TEXT)["input_ids"]
    else:
        row = caption.tolist() if isinstance(caption, Tensor) else list(caption)
        row = row[1:] if row[:1] == [processor.start_token_id] else row
    row = row[: row.index(processor.eos_token_id)] if processor.eos_token_id in row else row
    row = [token for token in row if token != IGNORED_LABEL]
    if len(row) > most:
        raise AttributionError(f"the caption has {len(row)} tokens, but the decoder has {most} positions; shorten it")
    return row


def _context(processor: CaptionerProcessor, inputs: dict[str, Tensor]) -> list[Word]:
    """The words of the sample's context; none without one."""
    if "context_input_ids" not in inputs:
        return []
    tokenizer = processor.context_tokenizer or processor.tokenizer
    ids, mask = (inputs[f"context_{name}"][0].tolist() for name in ("input_ids", "attention_mask"))
    return context_words(ids, mask, tokenizer)


def _by_word(weights: Weights, words: Sequence[Word]) -> Weights:
    """Rows of tokens (…, T, S) to the mean row of each word (…, W, S), on the CPU."""
    return {
        name: torch.stack([own[..., list(word.tokens), :].mean(dim=-2) for word in words], dim=-2).cpu()
        for name, own in weights.items()
    }


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
