"""How tokens are chosen: the likeliest, drawn ones, beams, beams with forced words; a new way is a class like these.

A strategy is a state of B images that takes logits and gives tokens; it knows no captioner and no memory.
Shapes: B images, K captions, P prompt tokens, V words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from .beams import Beams, ForcedBeams, Found
from .options import SearchOptions
from .stepping import Compaction


@dataclass
class Task:
    """What a strategy starts from: the options, prompt ids (B, P), end ids (n,), rules, and a seed per image."""

    options: SearchOptions
    prompt: Tensor
    eos: Tensor
    rules: LogitsProcessorList
    seeds: Sequence[int]


class Strategy(Protocol):
    """How tokens are chosen: a state of B images that advances by one token for each of their K captions."""

    apart: bool  # whether no caption of an image ever follows another

    def __init__(self, task: Task): ...

    def advance(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (B, K, V), at the start (B, 1, V) → tokens (B, K), and which captions they continue if any moved."""

    def done(self) -> Tensor:
        """Images that need no more tokens, (B,) bool."""

    def keep(self, compaction: Compaction) -> None:
        """Go on without the images that leave."""

    def found(self, image: int) -> list[Found]:
        """The captions of an image."""


class Greedy:
    """The likeliest token of every step; scored by the captioner's log-probabilities as beams are."""

    captions = 1
    apart = True

    def __init__(self, task: Task):
        self.task = task
        rows = (len(task.prompt), self.captions)
        self.ids = task.prompt[:, None].expand(*rows, -1)
        self.scores = torch.zeros(rows, device=task.prompt.device)
        self.ended = torch.zeros(rows, dtype=torch.bool, device=task.prompt.device)
        self.lengths = torch.zeros_like(self.scores, dtype=torch.long)

    def advance(self, logits: Tensor) -> tuple[Tensor, None]:
        """Captions that have ended take the first token, whatever it is: it is cut off."""
        logits = logits.float()
        rows = self.ids[:, : logits.shape[1]].flatten(0, 1)
        words = self.task.rules(rows, logits.flatten(0, 1)).view_as(logits) if self.task.rules else logits
        tokens = self.choose(words)
        values = logits.expand(-1, self.captions, -1).gather(-1, tokens[..., None])[..., 0] - logits.logsumexp(-1)
        self.scores += values.masked_fill(self.ended, 0)
        self.lengths += ~self.ended
        self.ended = self.ended | torch.isin(tokens, self.task.eos)
        self.ids = torch.cat([self.ids, tokens[..., None]], dim=-1)
        return tokens, None

    def choose(self, words: Tensor) -> Tensor:
        """Scores of words (B, 1, V) → tokens (B, 1)."""
        return words.argmax(-1)

    def done(self) -> Tensor:
        """Images whose captions have all ended."""
        return self.ended.all(1)

    def keep(self, compaction: Compaction) -> None:
        """Go on without the images that leave."""
        for name in ("ids", "scores", "ended", "lengths"):
            setattr(self, name, compaction.select(getattr(self, name)))

    def found(self, image: int) -> list[Found]:
        """The captions in the order in which they were begun."""
        lengths = self.lengths[image]
        scores = (self.scores[image] / lengths**self.task.options.length_penalty).tolist()
        ids = self.ids[image, :, self.task.prompt.shape[1] :].tolist()
        return [Found(row[:n], score) for row, n, score in zip(ids, lengths.tolist(), scores, strict=True)]


class Sampling(Greedy):
    """Tokens drawn from what temperature, top-k and top-p leave of the distribution, by the seed of their image."""

    def __init__(self, task: Task):
        self.captions = task.options.num_return_sequences
        super().__init__(task)
        shape = (task.options.max_new_tokens, self.captions)
        draws = [torch.rand(shape, generator=torch.Generator().manual_seed(s), dtype=torch.double) for s in task.seeds]
        self.draws = torch.stack(draws).to(task.prompt.device)

    def choose(self, words: Tensor) -> Tensor:
        """Scores of words (B, K or 1, V) → tokens (B, K), where the cumulated probability passes the image's draw."""
        step = self.ids.shape[-1] - self.task.prompt.shape[1]
        reached = words.softmax(-1).cumsum(-1, dtype=torch.double).expand(-1, self.captions, -1).contiguous()
        drawn = self.draws[:, step, :, None] * reached[..., -1:]
        return torch.searchsorted(reached, drawn, right=True)[..., 0]

    def keep(self, compaction: Compaction) -> None:
        """Go on without the images that leave."""
        super().keep(compaction)
        self.draws = compaction.select(self.draws)


class BeamSearch:
    """Beams in one group or several; with several, each is kept from the words that those before it take now."""

    kind = Beams
    apart = False

    def __init__(self, task: Task):
        self.options = task.options
        count, self.size = task.options.num_beam_groups, task.options.num_beams // task.options.num_beam_groups
        self.groups = [self.kind(task.options, task.prompt, self.size, task.eos, task.rules) for _ in range(count)]

    def advance(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """One token for each beam."""
        if len(self.groups) == 1:
            return self.groups[0].advance(logits)
        steps, taken = [], logits.new_zeros(len(logits), logits.shape[-1], dtype=torch.float)
        for i, group in enumerate(self.groups):
            own = logits[:, i * self.size : (i + 1) * self.size] if logits.shape[1] > 1 else logits
            tokens, parents = group.advance(own, taken)
            taken = taken.scatter_add(1, tokens, torch.full_like(group.scores, self.options.diversity_penalty))
            steps.append((tokens, parents + i * self.size))
        tokens, parents = (torch.cat(each, dim=1) for each in zip(*steps, strict=True))
        return tokens, parents

    def done(self) -> Tensor:
        """Images of which every group is done."""
        return torch.stack([group.done() for group in self.groups]).all(0)

    def keep(self, compaction: Compaction) -> None:
        """Go on without the images that leave."""
        for group in self.groups:
            group.keep(compaction)

    def found(self, image: int) -> list[Found]:
        """The best of every group, best first, then the second best of every group, and so on."""
        ranked = [(rank, -one.score, one) for group in self.groups for rank, one in enumerate(group.found(image))]
        best = [one for *_, one in sorted(ranked, key=lambda entry: entry[:2])]
        return best[: self.options.num_return_sequences]


class ForcedSearch(BeamSearch):
    """Beams that must say given phrases."""

    kind = ForcedBeams


STRATEGIES: dict[str, type[Strategy]] = {
    "greedy": Greedy,
    "sample": Sampling,
    "beam": BeamSearch,
    "forced": ForcedSearch,
}
