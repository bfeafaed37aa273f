"""`captioner caption`: the order of a run: look at everything, then load, then work.

What the options mean is the affair of `caption_options.py`; the work is done in `captioning.py` (images to records) and
`jobs.py` (records to files, over processes and restarts).
"""

import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..base import Processes, WriteError, progress, say, some, stopping, watching
from ..bulk import (
    CaptioningOptions,
    Inputs,
    Job,
    JobSettings,
    Summary,
    Target,
    dressed,
    encode,
    lines,
    merge,
    remove_errors,
    write_records,
)
from .caption_options import (
    CaptionerOption,
    ContextGroup,
    InputGroup,
    OutputGroup,
    PathsArgument,
    RunGroup,
    SearchGroup,
)
from .idle_options import refuse_idle
from .options import grouped
from .terminal import fail, quiet, teaching

if TYPE_CHECKING:
    from ..bulk import Captioning
    from ..model import Captioner, CaptionerProcessor
    from ..retrieval import Retriever

STOPPED = 130
SAYS_NOTHING = (
    "every caption is empty: the captioner says nothing about these images; try `--min-new-tokens 3`, or train it "
    "longer and on captions whose words its vocabulary has"
)
NO_CONTEXT = "warning: no image had a context; see `--context`, `--context-column`, `--context-ext`"
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@teaching
@grouped
def caption(
    *,
    paths: PathsArgument = None,
    model: CaptionerOption = None,
    chosen: InputGroup,
    context: ContextGroup,
    search: SearchGroup,
    written: OutputGroup,
    run: RunGroup,
) -> None:
    """Caption images, folders, lists, tables and datasets, on every GPU, losing nothing.

    The same command goes on where it was stopped or killed. `accelerate launch -m captioner caption …` uses every GPU.
    """
    paths = paths or []
    refuse_idle(paths, chosen, context, search, written, run)
    if run.merge:
        _merge(paths, written)
        return
    generation = search.generation()
    inputs, read = context.read(paths, chosen)
    if inputs.left_out:
        endings = Counter(os.path.splitext(file)[1].lower() for file in inputs.left_out)
        say(f"left out, since these are not read: {some(f'{count} {name}' for name, count in endings.items())}")
    store, sidecars = context.retrieval(), written.sidecars(context.context_ext)
    options = CaptioningOptions(
        generation=generation,
        context=read,
        batch_size=run.batch_size,
        workers=run.num_workers,
        seed=search.seed or 0,
        scores=written.scores,
        max_pixels=chosen.max_pixels,
        reads_only=not paths,
        layout=run.layout,
    )
    settings = JobSettings(
        model=model,
        dtype=run.dtype,
        options=options,
        retrieve=store.retrieve,
        neighbours=None if store.retrieve is None else store.neighbours,
        prefix=written.prefix,
        suffix=written.suffix,
        sidecars=sidecars,
    )
    start = Start(settings, Processes(run.device))
    target = Target(written.output, sidecars, written.policy, written.errors, _folder(*paths[:1]))
    read_files = _read_files(paths, context, model)
    if written.output is None and sidecars is None:
        target.check(read_files)
        _show(inputs, start, written)
        return
    share, processes = run.share(written.output), start.processes
    _run(Job(inputs, target, settings, share, processes.rank, processes.count, read_files), start)


def _read_files(paths: list[str], context: ContextGroup, model: str | None) -> dict[str, list[str | Path]]:
    """The files that the run reads, by what they are: no output may be one of them."""
    inside = {"a file of the captioner": model, "a file of the caption store": context.retrieve}
    listed = {what: sorted(Path(folder).glob("*")) for what, folder in inside.items() if folder}
    return {"an input of this command": [*paths, *filter(None, [context.context_file])], **listed}


@dataclass(frozen=True)
class Start:
    """What a run loads once it is known how many images it has."""

    settings: JobSettings
    processes: Processes

    def __call__(self, images: int) -> "Captioning":
        """Load the captioner; a few images need no workers."""
        from ..bulk import Captioning

        retriever, options = self._retriever(), self.settings.options
        batch, workers = max(1, min(options.batch_size, images)), min(options.workers, images // options.batch_size)
        loaded = _load(self.settings.model, self.processes, self.settings.dtype)
        return Captioning(*loaded, replace(options, batch_size=batch, workers=workers), retriever)

    def _retriever(self) -> "Retriever | None":
        if self.settings.retrieve is None:
            return None
        from ..retrieval import Retriever

        return Retriever(self.settings.retrieve, self.settings.neighbours, device=self.processes.device)


def _run(job: Job, start: Start) -> None:
    """Plan, load, work, publish; all processes plan before one works, and all have worked before one publishes."""
    processes = start.processes
    try:
        if processes.rank == 0:
            job.prepare()
        processes.wait()
        processes.agree({"the input": job.kept["input"], f"what lies in {job.target.journal}": job.journal.settings()})
        mine = job.plan()
        processes.wait()
        done, speed = _work(job, mine, start)
        if done < job.left:
            _stopped(job)
        if processes.rank == 0:
            _finish(job, speed)
    except WriteError as error:
        fail(f"{error}; what was written before is kept, and the same command goes on from there", code=1)
    finally:
        job.close()


def _work(job: Job, mine: list[int], start: Start) -> tuple[int, str]:
    """Caption this process's images and wait for the others; → how many all have done, and how fast."""
    captioning = start(len(mine)) if mine else None
    done, began = 0, time.monotonic()
    with stopping() as stop, watching("captioning", job.left, job.finished):
        if captioning is not None:
            results = captioning.run(map(job.inputs.__getitem__, mine), stop)
            done = sum(1 for _ in job.record(dressed(results, job.settings.prefix, job.settings.suffix)))
        waited = 0.0 if captioning is None else captioning.waited
        done, waited, worked = start.processes.add(done, waited, time.monotonic() - began)
    seconds = time.monotonic() - began
    return int(done), _speed(done, seconds, waited / worked) if done else ""


def _stopped(job: Job) -> None:
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


def _finish(job: Job, speed: str) -> None:
    """Publish and sum up; a shard waits for the others instead."""
    summary, target = job.summarise(), job.target
    if job.shard[1] == 1:
        job.publish()
        where = f"written to {target.output or f'texts beside them ({target.sidecars.extension})'}"
    else:
        then = f"captioner caption --merge --output {target.output}"
        where = f"kept in {target.journal}; when all shards are done: {then}"
    _sum_up(summary, speed, where, target)
    if summary.missing:
        fail(
            f"{summary.missing} of {summary.total} images have neither a caption nor an error: do all processes see "
            "the same folder? The same command goes on with them",
            code=1,
        )
    if job.settings.options.context.varies and summary.captioned > summary.already and not summary.contexts:
        say(NO_CONTEXT)


def _sum_up(summary: Summary, speed: str, where: str, target: Target) -> None:
    counts = {
        "failed": summary.failed,
        "left alone, since they have a text": summary.skipped,
        "of them there already before this run": summary.already,
        "of them with an empty caption": summary.empty,
    }
    others = "".join(f", {count} {what}" for what, count in counts.items() if count)
    say(f"{summary.captioned} of {summary.total} images captioned{others}{speed}, {where}")
    if summary.failed:
        reasons = f" (reasons in {target.errors_file})" if target.errors_file.exists() else ""
        fail(f"{_failed(summary.failed, summary.total)}{reasons}", code=1)
    if summary.empty and summary.empty == summary.captioned:
        fail(SAYS_NOTHING, code=1)


def _failed(failed: int, total: int) -> str:
    others = "; the others are captioned" if failed < total else ""
    return f"{failed} of {total} images could not be read{others}"


def _show(inputs: Inputs, start: Start, written: OutputGroup) -> None:
    """Print captions as they come, and keep nothing but a list of what failed, if asked to."""
    if start.processes.count > 1:
        fail(f"{start.processes.count} processes need a common `--output` or `--sidecar`", code=2)
    seen, empty, contexts, failed = 0, 0, 0, []
    with stopping() as stop:
        results = dressed(start(len(inputs)).run(inputs, stop), written.prefix, written.suffix)
        for _, record in progress(results, "captioning", len(inputs)):
            print(_json(record) if written.as_json else lines(record), flush=True)
            seen += 1
            contexts += "context" in record
            empty += record.get("caption", "x").strip() == (written.prefix + written.suffix).strip()
            failed += [record] if "error" in record else []
    if written.errors is not None and failed:
        write_records(failed, written.errors)
    elif written.errors is not None:
        remove_errors(written.errors)
    if seen < len(inputs):
        raise typer.Exit(STOPPED)
    if start.settings.options.context.varies and not contexts:
        say(NO_CONTEXT)
    if failed:
        fail(_failed(len(failed), seen), code=1)
    if empty and empty == seen - len(failed):
        fail(SAYS_NOTHING, code=1)


def _json(record: dict[str, Any]) -> str:
    """A line of JSON, whose own escapes stand for letters that the terminal lacks."""
    line = encode(record).decode().rstrip("\n")
    try:
        line.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(record)
    return line


def _merge(paths: list[str], written: OutputGroup) -> None:
    if written.output is None:
        fail("`--merge` needs `--output`: the file that the shards were given, or a new one", code=2)
    target = Target(written.output, existing=written.policy, errors=written.errors)
    target.check({"one of the outputs to merge": [path for path in paths if path != str(written.output)]})
    try:
        summary = merge([Path(path) for path in paths], target, say)
    except WriteError as error:
        fail(str(error), code=1)
    _sum_up(summary, "", f"written to {written.output}", target)
    if summary.missing:
        fail(f"{summary.missing} images are missing; finish the shards, then merge again", code=1)


def _folder(path: str = "") -> Path:
    """Where the journal of sidecars goes: the first folder of the input."""
    return Path(path) if os.path.isdir(path) else Path(os.path.dirname(path))


def _load(model: str | None, processes: Processes, dtype: str | None) -> tuple["Captioner", "CaptionerProcessor"]:
    import torch

    from ..adopt import DEFAULT_MODEL, load

    kind = DTYPES.get(dtype or "", dtype)
    if kind not in (None, *DTYPES.values()):
        fail(f"`--dtype` must be one of {', '.join(DTYPES.values())}, but is {dtype!r}", code=2)
    quiet()
    loaded, processor = load(model or DEFAULT_MODEL, **({} if kind is None else {"dtype": getattr(torch, kind)}))
    return loaded.to(processes.device), processor
