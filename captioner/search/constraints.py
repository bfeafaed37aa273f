"""What a caption may and must say: scores of tokens changed by rules, and phrases that have to come.

Everything works on rows of token ids without asking the device for an answer. Shapes: N rows of L tokens, V words.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation import logits_process

from .options import SearchOptions


class NoRepeatedNGrams(LogitsProcessor):
    """Forbids the token that would end an n-gram which its row already has."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """ids (N, L), scores (N, V) → scores (N, V)."""
        if input_ids.shape[1] < self.size:
            return scores
        ngrams = input_ids.unfold(1, self.size, 1)  # (N, L − size + 1, size)
        current = input_ids[:, None, input_ids.shape[1] + 1 - self.size :]
        repeats = (ngrams[..., :-1] == current).all(-1)
        banned = torch.zeros_like(scores).scatter_add_(1, ngrams[..., -1], repeats.to(scores.dtype))
        return scores.masked_fill(banned > 0, -torch.inf)


def rules(
    options: SearchOptions, eos: Tensor, prompt_length: int, silent: Sequence[int] | None = None
) -> LogitsProcessorList:
    """The processors that the options ask for, in transformers' order.

    Args:
        options: of the search.
        eos: ids that end a caption, (n,), may be empty.
        prompt_length: P, tokens before the first that is searched.
        silent: ids that are never said, unless they are asked for; None: none.
    """
    chosen = LogitsProcessorList()
    if options.repetition_penalty != 1.0:
        chosen.append(logits_process.RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
    if options.no_repeat_ngram_size:
        chosen.append(NoRepeatedNGrams(options.no_repeat_ngram_size))
    if options.bad_words_ids:
        words = [list(word) for word in options.bad_words_ids]
        chosen.append(logits_process.NoBadWordsLogitsProcessor(words, eos))
    if options.min_new_tokens and len(eos):
        minimum = logits_process.MinNewTokensLengthLogitsProcessor
        chosen.append(minimum(prompt_length, options.min_new_tokens, eos, device=eos.device))
    silent = sorted(set(silent or ()).difference(*options.force_words_ids))
    if silent:
        chosen.append(logits_process.SuppressTokensLogitsProcessor(silent, device=eos.device))
    if options.do_sample:
        chosen.extend(_warpers(options))
    return chosen


def _warpers(options: SearchOptions) -> LogitsProcessorList:
    chosen = LogitsProcessorList()
    if options.temperature != 1.0:
        chosen.append(logits_process.TemperatureLogitsWarper(options.temperature))
    if options.top_k:
        chosen.append(logits_process.TopKLogitsWarper(options.top_k))
    if options.top_p < 1.0:
        chosen.append(logits_process.TopPLogitsWarper(options.top_p))
    return chosen


class Phrases:
    """Phrases that a caption must contain, and how far a row of ids has come with each.

    Args:
        phrases: C of them, token ids each.
    """

    def __init__(self, phrases: Sequence[Sequence[int]], device: torch.device):
        self.phrases = [torch.tensor(list(phrase), device=device) for phrase in phrases]
        self.lengths = torch.tensor([len(phrase) for phrase in self.phrases], device=device)
        self.tokens = sum(len(phrase) for phrase in self.phrases)

    def progress(self, ids: Tensor) -> Tensor:
        """ids (…, L) → tokens of each phrase that stand (…, C): all if it has been said, else those that begin it."""
        return torch.stack([self._of_one(phrase, ids) for phrase in self.phrases], dim=-1)

    def _of_one(self, phrase: Tensor, ids: Tensor) -> Tensor:
        size = len(phrase)
        padded = F.pad(ids, (size, 0), value=-1)
        said = (padded.unfold(-1, size, 1) == phrase).all(-1).any(-1)
        best = torch.zeros_like(said, dtype=torch.long)
        for length in range(1, size):
            begun = (padded[..., -length:] == phrase[:length]).all(-1)
            best = torch.where(begun, length, best)
        return torch.where(said, size, best)

    def missing(self, progress: Tensor) -> tuple[Tensor, Tensor]:
        """Progress (…, C) → the next token of each phrase, and whether the phrase still needs it."""
        pairs = list(zip(self.phrases, progress.unbind(-1), strict=True))
        following = [phrase[so_far.clamp(max=len(phrase) - 1)] for phrase, so_far in pairs]
        needed = [so_far < len(phrase) for phrase, so_far in pairs]
        return torch.stack(following, dim=-1), torch.stack(needed, dim=-1)

    def stage(self, progress: Tensor) -> Tensor:
        """Progress (…, C) → tokens of the phrases that have been said, and of the one that is nearest to it, (…)."""
        said = progress == self.lengths
        return (progress * said).sum(-1) + progress.masked_fill(said, 0).amax(-1)
