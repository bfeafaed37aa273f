"""Fast search for captions: greedy, sampling, beams, diverse beams, forced words and ensembles, in batches.

Works on token ids and a `Memory`; its ids equal those of `Captioner.generate`, which is its reference. Sampling draws
from a seed per image, so that no caption depends on its batch. Shapes: B images, K captions, P prompt tokens, V words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from ..model import Captioner, Memory
from .beams import Beams, ForcedBeams, Found
from .constraints import rules
from .stepping import CaptionerStepper, Ensemble, Leaving, Stepper, masked_attention


class SearchError(ValueError):
    """A search that cannot be made; the message says what would work."""


@dataclass(frozen=True)
class SearchOptions:
    """What to search for. Names, meanings and defaults are those of transformers' `GenerationConfig`.

    Args:
        num_beams: K; 1 is greedy search.
        num_return_sequences: captions per image: of the best beams, or samples.
        length_penalty: a finished caption scores the sum of its log-probabilities over length**length_penalty.
        early_stopping: True, False or "never", as there.
        bad_words_ids: sequences of ids that may not come.
        force_words_ids: sequences of ids that must come, all of them (needs beams).
        num_beam_groups: groups of beams, one after the other; each is kept from what the ones before it say.
        diversity_penalty: log-probability that a word loses per beam of an earlier group that takes it now.
        do_sample: draw words, in `num_return_sequences` captions that know nothing of each other.
        eos_token_id: ids that end a caption; None: those of the model's `generation_config`, (): none.
    """

    num_beams: int = 1
    num_return_sequences: int = 1
    max_new_tokens: int = 20
    min_new_tokens: int = 0
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    bad_words_ids: Sequence[Sequence[int]] = ()
    force_words_ids: Sequence[Sequence[int]] = ()
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    eos_token_id: Sequence[int] | None = None

    def __post_init__(self) -> None:
        forced = sum(map(len, self.force_words_ids))
        for wrong, message in (
            (self.do_sample and self.num_beams > 1, "sampling takes `num_beams=1`, but it is {num_beams}"),
            (
                self.num_return_sequences > self.captions,
                "{num_return_sequences} captions need as many beams or `do_sample`",
            ),
            (
                self.num_beams % self.num_beam_groups,
                "`num_beams` {num_beams} is no multiple of {num_beam_groups} groups",
            ),
            (
                forced and self.num_beam_groups > 1,
                "forced words take one group of beams, but there are {num_beam_groups}",
            ),
            (forced and self.do_sample, "forced words take beams; leave out `do_sample`"),
            (forced > self.max_new_tokens, f"the forced words have {forced} tokens; raise `max_new_tokens`"),
            (self.max_new_tokens < 1, "`max_new_tokens` must be at least 1, but is {max_new_tokens}"),
        ):
            if wrong:
                raise SearchError(message.format(**vars(self)))

    @property
    def captions(self) -> int:
        """K: beams or samples of an image."""
        return self.num_return_sequences if self.do_sample else self.num_beams

    @property
    def strategy(self) -> str:
        """The key of `STRATEGIES`."""
        if self.do_sample:
            return "sample"
        if self.force_words_ids:
            return "forced"
        return "beam" if self.num_beams > 1 else "greedy"


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

    def __init__(self, task: Task): ...

    def advance(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (B, K, V), at the start (B, 1, V) → tokens (B, K), and which captions they continue if any moved."""

    def done(self) -> Tensor:
        """Images that need no more tokens, (B,) bool."""

    def keep(self, leaving: Leaving) -> None:
        """Go on without the images that leave."""

    def found(self, image: int) -> list[Found]:
        """The captions of an image."""


class Greedy:
    """The likeliest token of every step; scored by the captioner's log-probabilities as beams are."""

    captions = 1

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

    def keep(self, leaving: Leaving) -> None:
        """Go on without the images that leave."""
        for name in ("ids", "scores", "ended", "lengths"):
            setattr(self, name, leaving.select(getattr(self, name)))

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

    def keep(self, leaving: Leaving) -> None:
        """Go on without the images that leave."""
        super().keep(leaving)
        self.draws = leaving.select(self.draws)


class BeamSearch:
    """Beams in one group or several; with several, each is kept from the words that those before it take now."""

    kind = Beams

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

    def keep(self, leaving: Leaving) -> None:
        """Go on without the images that leave."""
        for group in self.groups:
            group.keep(leaving)

    def found(self, image: int) -> list[Found]:
        """The best of every group, best first, then the second best of every group, and so on."""
        ranked = [(rank, -one.score, one) for group in self.groups for rank, one in enumerate(group.found(image))]
        best = [one for *_, one in sorted(ranked, key=lambda entry: entry[:2])]
        return best[: self.options.num_return_sequences]


class ForcedSearch(BeamSearch):
    """Beams that must say given phrases."""

    kind = ForcedBeams


STRATEGIES = {"greedy": Greedy, "sample": Sampling, "beam": BeamSearch, "forced": ForcedSearch}


@torch.inference_mode()
def search(
    model: Captioner | Sequence[Captioner],
    memory: Memory | Sequence[Memory],
    options: SearchOptions,
    prompt: Tensor | None = None,
    seeds: Sequence[int] | None = None,
) -> list[list[Found]]:
    """Caption B images: for each its captions, best first (samples: in the order drawn).

    Args:
        model: a captioner in evaluation mode, or several of one vocabulary, whose probabilities are averaged.
        memory: what it has encoded, or one per captioner, of the same B images.
        prompt: ids (B, P) that every caption begins with; the start token is put before them if no row has it. None:
            the start token alone.
        seeds: one per image for `do_sample`; None: all 0.

    Raises:
        SearchError: options that do not go together, or more tokens than the decoder has positions for.
    """
    models = [model] if isinstance(model, Captioner) else list(model)
    memories = [memory] if isinstance(memory, Memory) else list(memory)
    task = _task(models, memories[0], options, prompt, seeds)
    slots = task.prompt.shape[1] + options.captions * (options.max_new_tokens - 1)
    steppers = [CaptionerStepper(*pair, options.captions, slots) for pair in zip(models, memories, strict=True)]
    with masked_attention(models):
        return _run(steppers[0] if len(steppers) == 1 else Ensemble(steppers), task)


def _run(stepper: Stepper, task: Task) -> list[list[Found]]:
    """Step until every image is done; images that are done leave the batch."""
    strategy = STRATEGIES[task.options.strategy](task)
    images = list(range(len(task.prompt)))  # of each row
    found: list[list[Found]] = [[] for _ in images]
    logits = stepper.start(task.prompt)
    for _ in range(task.options.max_new_tokens - 1):
        tokens, parents = strategy.advance(logits)
        gone = strategy.done().tolist() if len(task.eos) else [False]
        if any(gone):
            for row in (row for row, leaves in enumerate(gone) if leaves):
                found[images[row]] = strategy.found(row)
            leaving = Leaving(gone, tokens.device)
            images = [images[row] for row in leaving.order]
            if not images:
                return found
            strategy.keep(leaving)
            stepper.keep(leaving)
            tokens, parents = leaving.select(tokens), parents if parents is None else leaving.select(parents)
        if parents is not None:
            stepper.follow(parents)
        logits = stepper.step(tokens)
    strategy.advance(logits)
    for row, image in enumerate(images):
        found[image] = strategy.found(row)
    return found


def _task(
    models: Sequence[Captioner],
    memory: Memory,
    options: SearchOptions,
    prompt: Tensor | None,
    seeds: Sequence[int] | None,
) -> Task:
    first, device = models[0], models[0].device
    prompt = _with_start(first, memory.batch_size, prompt)
    longest = min(model.config.decoder.max_positions for model in models)
    if prompt.shape[1] + options.max_new_tokens - 1 > longest:
        raise SearchError(
            f"the prompt's {prompt.shape[1]} and `max_new_tokens={options.max_new_tokens}` need more than the "
            f"decoder's {longest} positions; lower `max_new_tokens` to {longest + 1 - prompt.shape[1]}"
        )
    ends = first.generation_config.eos_token_id if options.eos_token_id is None else options.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    eos = torch.tensor(ends, dtype=torch.long, device=device)
    seeds = [0] * memory.batch_size if seeds is None else seeds
    return Task(options, prompt, eos, rules(options, eos, prompt.shape[1]), seeds)


def _with_start(model: Captioner, images: int, prompt: Tensor | None) -> Tensor:
    """As `generate` does it."""
    start = torch.full((images, 1), model.generation_config.decoder_start_token_id, device=model.device)
    if prompt is None:
        return start
    prompt = prompt.to(model.device)
    return prompt if (prompt[:, 0] == start[:, 0]).any() else torch.cat([start, prompt], dim=1)
