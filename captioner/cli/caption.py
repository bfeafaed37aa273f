"""`captioner caption`: what its options mean, and the order of a run: look at everything, then load, then work.

The work is done in `captioning.py` (images to records) and `jobs.py` (records to files, over processes and restarts).
"""

import os
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .. import __version__
from ..base import (
    DataSettings,
    GenerationSettings,
    Processes,
    WriteError,
    load_settings,
    progress,
    say,
    stopping,
    watching,
)
from ..bulk import (
    METADATA_TEMPLATE,
    Context,
    Inputs,
    Job,
    Sidecars,
    Summary,
    Target,
    Texts,
    dressed,
    encode,
    find_inputs,
    find_texts,
    lines,
    merge,
    write_records,
)
from . import caption_options as options
from .terminal import BatchOption, WorkersOption, fail, quiet, retrieval, teaching, writable

if TYPE_CHECKING:
    from ..bulk import Captioning
    from ..retrieval import Retriever

STOPPED = 130
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@teaching
def caption(
    paths: options.Paths = None,
    model: options.Model = None,
    recursive: options.Recursive = False,
    image_column: options.ImageColumn = None,
    split: options.Split = None,
    limit: options.Limit = None,
    max_pixels: options.MaxPixels = None,
    context: options.ContextText = None,
    context_file: options.ContextFile = None,
    context_column: options.ContextColumn = None,
    context_ext: options.ContextExt = None,
    context_metadata: options.ContextMetadata = False,
    retrieve: options.Retrieve = None,
    neighbours: options.Neighbours = None,
    beams: options.Beams = None,
    captions: options.Captions = 1,
    max_new_tokens: options.MaxTokens = 30,
    min_new_tokens: options.MinTokens = 0,
    length_penalty: options.LengthPenalty = 1.0,
    no_repeat_ngram_size: options.NoRepeat = 0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    bad_words: options.BadWords = None,
    force_words: options.ForceWords = None,
    num_beam_groups: options.BeamGroups = 1,
    diversity_penalty: options.Diversity = 0.0,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    seed: options.Seed = 0,
    output: options.Output = None,
    sidecar: options.Sidecar = None,
    existing: options.Existing = "skip",
    overwrite: options.Overwrite = False,
    prefix: options.Prefix = "",
    suffix: options.Suffix = "",
    scores: options.Scores = False,
    errors: options.Errors = None,
    as_json: options.AsJson = False,
    shard: options.Shard = None,
    merge_shards: options.Merge = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    layout: options.Layout = "auto",
    batch_size: BatchOption = 16,
    num_workers: WorkersOption = 2,
) -> None:
    """Caption images, folders, lists, tables and datasets, on every GPU, losing nothing.

    The same command goes on where it was stopped or killed. `accelerate launch -m captioner caption …` uses every GPU.
    """
    paths, kind = paths or [], "overwrite" if overwrite else existing
    writable(output)
    if merge_shards:
        _merge(paths, output, errors)
        return
    search = {
        "num_return_sequences": captions, "max_new_tokens": max_new_tokens, "min_new_tokens": min_new_tokens,
        "length_penalty": length_penalty, "no_repeat_ngram_size": no_repeat_ngram_size,
        "repetition_penalty": repetition_penalty, "bad_words": bad_words or [], "force_words": force_words or [],
        "num_beam_groups": num_beam_groups, "diversity_penalty": diversity_penalty,
    }  # fmt: skip
    generation = _generation(beams, {"temperature": temperature, "top_k": top_k, "top_p": top_p}, search)
    find = partial(find_inputs, paths, recursive, image_column, split, limit)
    inputs, context = _inputs(find, paths, context, context_file, limit)
    read = _context(context, context_column, context_ext, context_metadata, inputs)
    processes, around = Processes(device), (prefix, suffix)
    how = {"generation": generation, "context": read, "batch_size": batch_size, "seed": seed, "scores": scores}
    how |= {"reads_only": not paths, "layout": layout} | ({} if max_pixels is None else {"max_pixels": max_pixels})
    data = load_settings(None, retrieval(retrieve, neighbours)).data
    start = partial(_start, processes, model, dtype, num_workers, how, data)
    sidecars = _sidecars(sidecar, kind, context_ext)
    target = Target(output, sidecars, kind, errors, _folder(*paths[:1]))
    if output is None and sidecar is None:
        _show(inputs, start, processes, around, as_json, errors)
        return
    settings = {
        "captioner": __version__, "model": model, "dtype": dtype, "generation": generation.model_dump(), "seed": seed,
        "context": read.template, "context_ext": read.sidecar_extension, "context_varies": read.varies,
        "retrieve": data.retrieve, "neighbours": data.retrieve and data.neighbours,
        "prefix": prefix, "suffix": suffix, "scores": scores, "sidecar": sidecars and vars(sidecars),
    }  # fmt: skip
    _run(
        Job(inputs, target, settings, _shard(shard, output), processes.rank, processes.count), start, processes, around
    )


def _start(
    processes: Processes,
    model: str | None,
    dtype: str | None,
    workers: int,
    how: dict[str, Any],
    data: DataSettings,
    images: int,
) -> "Captioning":
    """Load the captioner; a few images need no workers."""
    from ..bulk import Captioning

    retriever = _retriever(data, processes)
    workers = min(workers, images // how["batch_size"])
    how = how | {"workers": workers, "batch_size": max(1, min(how["batch_size"], images))}
    return Captioning(*_load(model, processes, dtype), retriever=retriever, **how)


def _retriever(data: DataSettings, processes: Processes) -> "Retriever | None":
    if data.retrieve is None:
        return None
    from ..retrieval import Retriever

    return Retriever(data.retrieve, data.neighbours, device=processes.device)


def _run(job: Job, start: Callable[[int], "Captioning"], processes: Processes, around: tuple[str, str]) -> None:
    """Plan, load, work, publish; all processes plan before one works, and all have worked before one publishes."""
    try:
        if processes.rank == 0:
            job.prepare()
        processes.wait()
        mine = job.plan()
        processes.wait()
        done, speed = _work(job, mine, start, processes, around)
        if done < job.left:
            _leave(job)
        if processes.rank == 0:
            _close(job, speed)
    except WriteError as error:
        fail(f"{error}; what was written before is kept, and the same command goes on from there", code=1)
    finally:
        job.close()


def _work(
    job: Job, mine: list[int], start: Callable[[int], "Captioning"], processes: Processes, around: tuple[str, str]
) -> tuple[int, str]:
    """Caption this process's images and wait for the others; → how many all have done, and how fast."""
    captioning = start(len(mine)) if mine else None
    done, began = 0, time.monotonic()
    with stopping() as stop, watching("captioning", job.left, job.finished):
        if captioning is not None:
            results = captioning.run(map(job.inputs.__getitem__, mine), stop)
            done = sum(1 for _ in job.record(dressed(results, *around)))
        waited = 0.0 if captioning is None else captioning.waited
        done, waited, worked = processes.add(done, waited, time.monotonic() - began)
    seconds = time.monotonic() - began
    return int(done), _speed(done, seconds, waited / worked) if done else ""


def _leave(job: Job) -> None:
    """Say what Ctrl-C has left."""
    summary = job.summarise()
    say(
        f"stopped: {summary.captioned} of {summary.total} images captioned, kept in {job.target.journal}; the same "
        "command goes on from there"
    )
    raise typer.Exit(STOPPED)


def _speed(images: float, seconds: float, waited: float) -> str:
    """How fast it went, and whether reading images held it up."""
    return f" at {images / seconds:.1f} images/s ({seconds:.0f} s, {waited:.0%} of it waiting for images)"


def _close(job: Job, speed: str) -> None:
    """Publish and sum up; a shard waits for the others instead."""
    summary, target = job.summarise(), job.target
    if job.shard[1] == 1:
        job.publish()
        where = f"written to {target.output or f'texts beside them ({target.sidecars.extension})'}"
    else:
        then = f"captioner caption --merge --output {target.output}"
        where = f"kept in {target.journal}; when all shards are done: {then}"
    _sum_up(summary, speed, where, target)


def _sum_up(summary: Summary, speed: str, where: str, target: Target) -> None:
    counts = {"failed": summary.failed, "left alone, since they have a text": summary.skipped}
    others = "".join(f", {count} {what}" for what, count in counts.items() if count)
    say(f"{summary.captioned} of {summary.total} images captioned{others}{speed}, {where}")
    if summary.failed:
        reasons = f" (reasons in {target.errors_file})" if target.errors_file.exists() else ""
        fail(f"{summary.failed} of {summary.total} images could not be read; the others are captioned{reasons}", code=1)


def _show(
    inputs: Inputs,
    start: Callable[[int], "Captioning"],
    processes: Processes,
    around: tuple[str, str],
    as_json: bool,
    errors: Path | None,
) -> None:
    """Print captions as they come, and keep nothing but a list of what failed, if asked to."""
    if processes.count > 1:
        fail(f"{processes.count} processes need a common `--output` or `--sidecar`", code=2)
    seen, failed = 0, []
    with stopping() as stop:
        results = start(len(inputs)).run(inputs, stop)
        for _, record in progress(dressed(results, *around), "captioning", len(inputs)):
            print(encode(record).decode().rstrip("\n") if as_json else lines(record), flush=True)
            seen += 1
            failed += [record] if "error" in record else []
    if errors is not None:
        write_records(failed, errors)
    if seen < len(inputs):
        raise typer.Exit(STOPPED)
    if failed:
        fail(f"{len(failed)} of {seen} images could not be read; the others are captioned", code=1)


def _merge(paths: list[str], output: Path | None, errors: Path | None) -> None:
    if output is None:
        fail("`--merge` needs `--output`: the file that the shards were given, or a new one", code=2)
    target = Target(output, errors=errors)
    try:
        summary = merge([Path(path) for path in paths], target, say)
    except WriteError as error:
        fail(str(error), code=1)
    _sum_up(summary, "", f"written to {output}", target)
    if summary.missing:
        fail(f"{summary.missing} images are missing; finish the shards, then merge again", code=1)


def _generation(beams: int | None, sampling: dict[str, Any], search: dict[str, Any]) -> GenerationSettings:
    """Words are drawn when temperature, top-k or top-p is given; else beams are searched."""
    drawn = {name: value for name, value in sampling.items() if value is not None}
    beams = beams or (1 if drawn else 3)
    if drawn and beams > 1:
        fail(f"`--beams` is {beams}, but {', '.join(drawn)} draw words instead of searching; leave one out", code=2)
    captions = search["num_return_sequences"]
    if captions > beams and not drawn:
        fail(f"`--captions` is {captions}, but a search with {beams} beams finds {beams}; raise `--beams`", code=2)
    try:
        return GenerationSettings(num_beams=beams, do_sample=bool(drawn), **drawn, **search)
    except ValueError as error:
        fail(" ".join(str(error).split()), code=2)


def _context(text: str | None, column: str | None, extension: str | None, metadata: bool, inputs: Inputs) -> Context:
    """The one kind of context that was asked for."""
    templates = {
        "--context": text,
        "--context-column": column and f"{{{column}}}",
        "--context-metadata": METADATA_TEMPLATE if metadata else None,
    }
    given = [name for name, template in templates.items() if template] + (["--context-ext"] if extension else [])
    if len(given) > 1:
        fail(f"give one of {', '.join(given)}; a template in `--context` can name several sources", code=2)
    template = next((template for template in templates.values() if template), None)
    return Context(template, _extension(extension), inputs.columns)


def _inputs(
    find: Callable[[], Inputs], paths: list[str], context: str | None, file: str | None, limit: int | None
) -> tuple[Inputs, str | None]:
    """What is captioned, and the template of contexts: images, or without any the texts of a file, or one text."""
    if file is None and (paths or not context):
        return find(), context
    if paths:
        fail("`--context-file` takes the place of images; leave one of them out", code=2)
    return (Inputs([Texts([context])]), "{text}") if file is None else (find_texts(file, limit), context or "{text}")


def _sidecars(extension: str | None, existing: str, context_ext: str | None) -> Sidecars | None:
    extension = _extension(extension)
    if extension is None:
        return None
    if extension == _extension(context_ext) and existing not in ("append", "prepend"):
        fail(f"captions would replace the contexts in {extension} files; give `--existing append` or `prepend`", code=2)
    return Sidecars(extension, existing)


def _extension(text: str | None) -> str | None:
    """People leave the dot out."""
    return text and "." + text.lstrip(".")


def _shard(text: str | None, output: Path | None) -> tuple[int, int]:
    if text is not None and output is None:
        fail("`--shard` needs `--output`: the file in which `--merge` will join the shards", code=2)
    found = re.fullmatch(r"(\d+)/(\d+)", text or "1/1")
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        fail(f"`--shard` must be i/n with i from 1 to n, such as 3/64, but is {text!r}", code=2)
    return int(found[1]), int(found[2])


def _folder(path: str = "") -> Path:
    """Where the journal of sidecars goes: the first folder of the input."""
    return Path(path) if os.path.isdir(path) else Path(os.path.dirname(path))


def _load(model: str | None, processes: Processes, dtype: str | None) -> tuple[Any, Any]:
    import torch

    from ..adopt import DEFAULT_MODEL, load

    kind = DTYPES.get(dtype or "", dtype)
    if kind not in (None, *DTYPES.values()):
        fail(f"`--dtype` must be one of {', '.join(DTYPES.values())}, but is {dtype!r}", code=2)
    quiet()
    loaded, processor = load(model or DEFAULT_MODEL, **({} if kind is None else {"dtype": getattr(torch, kind)}))
    return loaded.to(processes.device), processor
