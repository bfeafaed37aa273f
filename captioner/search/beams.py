"""The beams of a batch of images: which are tried next, which are finished, and when an image is done.

Numbers are those of transformers' beam search; diverse beams from Vijayakumar et al. 2016 (arXiv 1610.02424), room for
beams at every stage of the forced words from Post and Vilar 2018 (arXiv 1804.06609). Knows no captioner.
Shapes: B images, K beams, C candidates, L room for tokens, V words.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from ..model import largest
from .constraints import Phrases
from .options import SearchOptions
from .stepping import Compaction

LOWEST = -1e9  # the score of what is not there


class Found(NamedTuple):
    """A caption: its generated ids, the end token included where it came, and its score."""

    ids: list[int]
    score: float


@dataclass
class Candidates:
    """Continuations to choose from, the most preferred first; all (B, C).

    Args:
        scores: sum of the log-probabilities.
        preference: what they are ordered by: the scores, less what another group has taken already.
        parents: the beam that each continues.
        tokens: with which token.
    """

    scores: Tensor
    preference: Tensor
    parents: Tensor
    tokens: Tensor

    def best(self, count: int) -> "Candidates":
        """The `count` most preferred."""
        return self.at(self.preference.topk(min(count, self.preference.shape[1]), dim=1).indices)

    def at(self, index: Tensor) -> "Candidates":
        """Those at `index` (B, C')."""
        return Candidates(*(getattr(self, field.name).gather(1, index) for field in fields(self)))

    def with_more(self, other: "Candidates") -> "Candidates":
        """Both, these first."""
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return Candidates(*(torch.cat(pair, dim=1) for pair in pairs))


class Beams:
    """K beams of each of B images.

    Args:
        options: of the search; of its beams, these are `beams`.
        prompt: ids (B, P).
        beams: K.
        eos: ids that end a caption (n,), may be empty.
        rules: what changes log-probabilities before they are compared.
    """

    def __init__(self, options: SearchOptions, prompt: Tensor, beams: int, eos: Tensor, rules: LogitsProcessorList):
        self.options, self.eos, self.rules = options, eos, rules
        self.prompt_length = self.length = prompt.shape[1]
        self.limit = self.length + options.max_new_tokens
        shape = (len(prompt), beams)
        self.ids = prompt.new_zeros(*shape, self.limit)
        self.ids[:, :, : self.length] = prompt[:, None]
        self.scores = torch.zeros(shape, device=prompt.device)
        self.scores[:, 1:] = LOWEST
        self.ended_ids = self.ids.clone()
        self.ended_scores = torch.full_like(self.scores, LOWEST)
        self.ended_length = torch.zeros_like(self.ids[..., 0])
        self.ended = torch.zeros(shape, dtype=torch.bool, device=prompt.device)
        self.improving = torch.ones(len(prompt), dtype=torch.bool, device=prompt.device)

    def advance(self, logits: Tensor, taken: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One more token for every beam.

        Args:
            logits: of the next token, (B, K, V), or (B, 1, V) while all beams are the prompt.
            taken: what to take off a word's score when candidates are compared, (B, V).

        Returns:
            tokens and the beams that they continue, (B, K) each.
        """
        last = self.length + 1 == self.limit
        candidates = self.candidates(logits, taken)
        ids = self._ids_of(candidates)
        ends = torch.isin(candidates.tokens, self.eos)
        if last or len(self.eos):
            self._finish(candidates, ids, ends | last)
        going_on = self._going_on(candidates, ids, ends)
        chosen = candidates.at(going_on)
        self.scores = chosen.scores + ends.gather(1, going_on) * LOWEST
        self.ids = _rows(ids, going_on)
        self.length += 1
        self._judge()
        return chosen.tokens, chosen.parents

    def candidates(self, logits: Tensor, taken: Tensor | None) -> Candidates:
        """The best continuations of all beams: so many that K remain when all that can end do."""
        beams = self.scores.shape[1]
        count = max(2, 1 + len(self.eos)) * beams
        values, preference, tokens = self._likeliest(logits, taken, count)
        handicap = self.scores[:, :, None]
        every = torch.arange(beams, device=tokens.device)[None, :, None].expand(len(tokens), -1, tokens.shape[2])
        pool = Candidates(
            (handicap + values).flatten(1), (handicap + preference).flatten(1), every.flatten(1), tokens.flatten(1)
        )
        return pool.best(count)

    def _likeliest(self, logits: Tensor, taken: Tensor | None, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Per beam: log-probabilities, preferences and tokens of its best continuations, (B, K, count) each."""
        words = self.log_probabilities(logits)
        preferred = words if taken is None else words - taken[:, None]
        preference, tokens = largest(preferred, min(count, words.shape[-1]))
        values = preference if taken is None else words.gather(-1, tokens)
        shape = (-1, self.scores.shape[1], -1)
        return values.expand(*shape), preference.expand(*shape), tokens.expand(*shape)

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Logits (B, k, V) → log-probabilities as the rules leave them."""
        words = logits.float().log_softmax(-1)
        if self.rules:
            rows = self.ids[:, : words.shape[1], : self.length]
            words = self.rules(rows.flatten(0, 1), words.flatten(0, 1)).view_as(words)
        return words

    def _ids_of(self, candidates: Candidates) -> Tensor:
        ids = _rows(self.ids, candidates.parents)
        ids[:, :, self.length] = candidates.tokens
        return ids

    def _going_on(self, candidates: Candidates, ids: Tensor, ends: Tensor) -> Tensor:
        """The candidates that are the next beams, (B, K): the most preferred that do not end."""
        preference = candidates.preference + ends * LOWEST
        return preference.topk(self.scores.shape[1], dim=1).indices

    def _finish(self, candidates: Candidates, ids: Tensor, ends: Tensor) -> None:
        """Keep the best K of what has ended, unless the image is done."""
        accepted = self._may_finish(candidates, ids, ends) & ~self.done()[:, None]
        new = self.length + 1 - self.prompt_length
        scores = torch.where(accepted, candidates.scores / new**self.options.length_penalty, LOWEST)
        merged = torch.cat([self.ended_scores, scores], dim=1)
        best = merged.topk(self.scores.shape[1], dim=1).indices
        self.ended_scores = merged.gather(1, best)
        self.ended_ids = _rows(torch.cat([self.ended_ids, ids], dim=1), best)
        self.ended = torch.cat([self.ended, accepted], dim=1).gather(1, best)
        lengths = torch.cat([self.ended_length, torch.full_like(candidates.tokens, new)], dim=1)
        self.ended_length = lengths.gather(1, best)

    def _may_finish(self, candidates: Candidates, ids: Tensor, ends: Tensor) -> Tensor:
        """Only the first K candidates: the others are there to go on with."""
        return ends & (torch.arange(ends.shape[1], device=ends.device) < self.scores.shape[1])

    def _judge(self) -> None:
        """An image is done when its best beam cannot get better than its worst finished caption."""
        new, penalty = self.length - self.prompt_length, self.options.length_penalty
        if self.options.early_stopping == "never" and penalty > 0:
            new = self.limit - self.prompt_length
        hoped = self.scores.amax(1) / new**penalty
        worst = torch.where(self.ended.all(1), self.ended_scores.amin(1), LOWEST)
        self.improving &= hoped > worst

    def done(self) -> Tensor:
        """The images that take no more captions, (B,)."""
        if self.options.early_stopping is True:
            return self.ended.all(1) | ~self.improving
        return ~self.improving

    def keep(self, compaction: Compaction) -> None:
        """Go on without the images that leave."""
        for name in ("ids", "scores", "ended_ids", "ended_scores", "ended_length", "ended", "improving"):
            setattr(self, name, compaction.select(getattr(self, name)))

    def found(self, image: int) -> list[Found]:
        """The finished captions of an image, best first."""
        ids = self.ended_ids[image, :, self.prompt_length :].tolist()
        lengths, scores = self.ended_length[image].tolist(), self.ended_scores[image].tolist()
        ended = self.ended[image].tolist()
        return [Found(ids[k][: lengths[k]], scores[k]) for k in range(len(ids)) if ended[k]]


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """x (B, K, L) at `index` (B, C) → (B, C, L)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


class ForcedBeams(Beams):
    """Beams whose finished captions contain every phrase of `options.force_words_ids`.

    The beams are shared out over the stages, a stage being how many tokens of the phrases stand: the best beam of
    every stage comes first, then the second best, so that some beam always works on what is missing.
    """

    def __init__(self, options: SearchOptions, prompt: Tensor, beams: int, eos: Tensor, rules: LogitsProcessorList):
        super().__init__(options, prompt, beams, eos, rules)
        self.phrases = Phrases(options.force_words_ids, prompt.device)

    def _progress(self, ids: Tensor) -> Tensor:
        return self.phrases.progress(ids[..., self.prompt_length : self.length + 1])

    def candidates(self, logits: Tensor, taken: Tensor | None) -> Candidates:
        """The likeliest continuations and, of each beam, those that a phrase needs next; ends only where none does."""
        beams = self.scores.shape[1]
        words = self.log_probabilities(logits).expand(-1, beams, -1)
        following, needed = self.phrases.missing(
            self.phrases.progress(self.ids[:, :, self.prompt_length : self.length])
        )
        if len(self.eos):
            at_end = torch.zeros_like(words[0, 0], dtype=torch.bool).index_fill(0, self.eos, True)
            words = words.masked_fill(needed.any(-1, keepdim=True) & at_end, -torch.inf)
            ends = self.eos.expand(*words.shape[:2], -1)
            following = torch.cat([following, ends], dim=-1)
            needed = torch.cat([needed, ~needed.any(-1, keepdim=True).expand_as(ends)], dim=-1)
        free = self._pool(words, beams)
        return free.with_more(self._asked_for(words, following, needed, free))

    def _pool(self, words: Tensor, beams: int) -> Candidates:
        count = max(2, 1 + len(self.eos)) * beams
        scores = self.scores[:, :, None] + words
        best, index = scores.flatten(1).topk(min(count, scores[0].numel()), dim=1)
        return Candidates(best, best, index // words.shape[-1], index % words.shape[-1])

    def _asked_for(self, words: Tensor, following: Tensor, needed: Tensor, free: Candidates) -> Candidates:
        """Candidates of the tokens `following` (B, K, C), where needed and not among the free ones; else at −∞."""
        scores = (self.scores[:, :, None] + words.gather(-1, following)).masked_fill(~needed, -torch.inf).flatten(1)
        beams = torch.arange(words.shape[1], device=words.device)[None, :, None].expand_as(following).flatten(1)
        tokens = following.flatten(1)
        key, others = beams * words.shape[-1] + tokens, free.parents * words.shape[-1] + free.tokens
        twice = (key[:, :, None] == key[:, None]) & needed.flatten(1)[:, None]
        again = torch.tril(twice, diagonal=-1).any(-1) | (key[:, :, None] == others[:, None]).any(-1)
        scores = scores.masked_fill(again, -torch.inf)
        return Candidates(scores, scores, beams, tokens)

    def _going_on(self, candidates: Candidates, ids: Tensor, ends: Tensor) -> Tensor:
        """The best of each stage, then the second best of each, and so on; nothing that is not there."""
        stage = self.phrases.stage(self._progress(ids))
        absent = ends | (candidates.scores < LOWEST / 2)
        preference = candidates.preference.masked_fill(absent, -torch.inf)
        better = (preference[:, None] > preference[:, :, None]) & (stage[:, None] == stage[:, :, None])
        rank = better.sum(-1)
        turn = rank * (self.phrases.tokens + 1) - stage
        never = torch.iinfo(turn.dtype).max
        return turn.masked_fill(absent, never).topk(self.scores.shape[1], dim=1, largest=False).indices

    def _may_finish(self, candidates: Candidates, ids: Tensor, ends: Tensor) -> Tensor:
        """Whatever has said every phrase."""
        complete = self.phrases.stage(self._progress(ids)) == self.phrases.tokens
        return ends & complete & (candidates.scores > LOWEST / 2)
