"""Fast search for captions: greedy, sampling, beams, diverse beams, forced words and ensembles, in batches.

Works on token ids and a `Memory`; its ids equal those of `Captioner.generate`, which is its reference. Sampling draws
from a seed per image, so that no caption depends on its batch. Shapes: B images, P prompt tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..model import Captioner, Memory
from .beams import Found
from .constraints import rules
from .options import SearchError, SearchOptions
from .stepping import WIDEST_ROW, CaptionerStepper, Compaction, Ensemble, Stepper, masked_attention
from .strategies import STRATEGIES, Task


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
        SearchError: captioners or ids of another vocabulary, or more tokens than the decoder has positions for.
    """
    models = [model] if isinstance(model, Captioner) else list(model)
    memories = [memory] if isinstance(memory, Memory) else list(memory)
    if not memories[0].batch_size:
        return []
    task = _task(models, memories[0], options, prompt, seeds)
    rows = -(-options.captions // WIDEST_ROW) if STRATEGIES[options.strategy].apart else 1
    slots = task.prompt.shape[1] + -(-options.captions // rows) * (options.max_new_tokens - 1)
    pairs = zip(models, memories, strict=True)
    steppers = [CaptionerStepper(*pair, options.captions, slots, rows) for pair in pairs]
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
        finished = strategy.done().tolist() if len(task.eos) else [False]
        if any(finished):
            for row in (row for row, leaves in enumerate(finished) if leaves):
                found[images[row]] = strategy.found(row)
            compaction = Compaction(finished, tokens.device)
            images = [images[row] for row in compaction.order]
            if not images:
                return found
            strategy.keep(compaction)
            stepper.keep(compaction)
            tokens, parents = compaction.select(tokens), parents if parents is None else compaction.select(parents)
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
    _check_vocabulary(models, options)
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
    silent = first.generation_config.suppress_tokens if options.suppress_tokens is None else options.suppress_tokens
    return Task(options, prompt, eos, rules(options, eos, prompt.shape[1], silent), seeds)


def _check_vocabulary(models: Sequence[Captioner], options: SearchOptions) -> None:
    sizes = [model.config.decoder.vocab_size for model in models]
    if len({*sizes}) > 1:
        raise SearchError(
            f"captioners that search together need one vocabulary, but have {' and '.join(map(str, sizes))}"
        )
    for name, ids in options.ids.items():
        beyond = [token for token in ids if not 0 <= token < sizes[0]]
        if beyond:
            raise SearchError(f"`{name}` names {beyond[0]}, but tokens are numbers from 0 to {sizes[0] - 1}")


def _with_start(model: Captioner, images: int, prompt: Tensor | None) -> Tensor:
    """As `generate` does it."""
    start = torch.full((images, 1), model.generation_config.decoder_start_token_id, device=model.device)
    if prompt is None:
        return start
    prompt = prompt.to(model.device)
    return prompt if (prompt[:, 0] == start[:, 0]).any() else torch.cat([start, prompt], dim=1)
