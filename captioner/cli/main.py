"""The commands. Each checks what it was given, then imports what it needs and calls one function that does the work.

Exit codes: 0 done, 1 the work failed in part or whole, 2 the command was used wrongly.
"""

import json
from functools import cache, partial
from pathlib import Path
from typing import Annotated

import typer

from ..base import Settings, SettingsError, is_first_process, load_settings, progress, say, show
from .app import app_command
from .attend import attend
from .caption import caption
from .convert import convert
from .index import index
from .terminal import (
    BatchOption,
    ModelOption,
    NeighboursOption,
    OutputOption,
    RetrieveOption,
    WorkersOption,
    fail,
    quiet,
    retrieval,
    teaching,
    writable,
    write,
)

app = typer.Typer(
    help="An image captioner that looks and reads.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: name.replace("_", "-"),
    },
)

app.command()(caption)
app.command()(attend)
app.command("app")(app_command)
app.command()(convert)
app.command()(index)

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Settings, as section.key=value.")]


@app.command()
@teaching
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML page to write.")] = Path(
        "captioner-demo.html"
    ),
    scenes: Annotated[int, typer.Option(min=1, help="Unseen scenes per level and row of the table.")] = 200,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the live training; default: two minutes.")] = None,
) -> None:
    """Show it all, offline: what the shipped captioners see and read, a training while you watch, a page to keep."""
    from ..pages import run_demo

    writable(output)
    run_demo(output, scenes, steps)


@app.command()
@teaching
def train(
    config: Annotated[str | None, typer.Argument(help="A YAML file with the settings of the run.")] = None,
    overrides: Overrides = None,
    config_option: Annotated[str | None, typer.Option("--config", help="The same, as an option.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint, if there is one.")
    ] = False,
    retrieve: RetrieveOption = None,
    neighbours: NeighboursOption = None,
) -> None:
    """Train a captioner from a YAML config and `section.key=value` overrides."""
    settings = _run_settings(config, [*(overrides or []), *retrieval(retrieve, neighbours)], config_option)
    from ..training import train as run

    quiet()

    best = run(settings, resume)
    say(f"best step {best['step']}: {format_scores(best)}; saved in {settings.training.output_dir}/best")


def train_main() -> None:
    """The command line of `train.py`."""
    single = typer.Typer(pretty_exceptions_enable=False)
    single.command()(train)
    single()


@app.command()
@teaching
def evaluate(
    model: ModelOption,
    overrides: Overrides = None,
    config: Annotated[str | None, typer.Option(help="A YAML file with `data` and `generation`.")] = None,
    split: Annotated[str | None, typer.Option(help="Which split; default: `data.validation_split`.")] = None,
    output: OutputOption = None,
    report: Annotated[
        Path | None, typer.Option(help="An HTML page: scores with and without each modality, samples, attention maps.")
    ] = None,
    compare: Annotated[list[str] | None, typer.Option(help="A further captioner for the page; repeatable.")] = None,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Also score each modality blanked, and taken from another sample.")
    ] = False,
    retrieve: RetrieveOption = None,
    neighbours: NeighboursOption = None,
    batch_size: BatchOption = 64,
    num_workers: WorkersOption = 2,
) -> None:
    """Caption a split and score it with BLEU, ROUGE-L and CIDEr-D.

    `training.java_metrics=[meteor]` and `training.clip_model=…` add METEOR, SPICE and CLIPScore.
    """
    settings = load_settings(config, [*(overrides or []), *retrieval(retrieve, neighbours)])
    writable(output)
    writable(report, "--report")
    if compare and report is None:
        fail("`--compare` adds captioners to a page; name the page with `--report`", code=2)
    from ..adopt import load
    from ..data import BadData, load_split
    from ..evaluation import BorrowedMetrics
    from ..evaluation import ablate as run_ablations
    from ..evaluation import evaluate as run
    from ..pages import report as run_report
    from ..retrieval import retrieved

    quiet()
    split = split or settings.data.validation_split
    samples = load_split(settings.data, split)
    bad = BadData(settings.data.max_bad_share, None if output is None else output.with_suffix(".bad.jsonl"))
    bad.begin(split, samples)
    options = {
        "batch_size": batch_size, "workers": num_workers, "split": split, "task": settings.data.task,
        "borrowed": BorrowedMetrics(settings.training),
    }  # fmt: skip
    loaded = cache(lambda: load(model))
    if settings.data.retrieve is not None:
        samples = retrieved(samples, settings.data, loaded()[0], num_workers)
    if report is None:
        watch = partial(progress, description="captioning")
        result = run(*loaded(), samples, settings.generation, watch=watch, **options)
    else:
        result = run_report([model, *(compare or [])], samples, settings.generation, report, progress, **options)
    if output is not None and is_first_process():
        write(
            ({"id": r["id"], "caption": r["caption"], "captions": r["captions"]} for r in result.records),
            output,
        )
    show_scores(result.scores)
    say(result.signature)
    bad.of(split).extend(result.bad)
    bad.report()
    if ablate:
        show_rows(
            run_ablations(
                *loaded(), samples, settings.generation, watch=partial(progress, description="ablating"), **options
            )
        )


@app.command()
@teaching
def score(
    predictions: Annotated[Path, typer.Argument(help="JSONL: lines with `id` and `caption`.")],
    references: Annotated[Path, typer.Argument(help="JSONL: lines with `id` and `captions`.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score captions that any program wrote."""
    from ..evaluation import score_files

    scores = score_files(predictions, references)
    print(json.dumps(scores)) if as_json else show_scores(scores)


def _run_settings(config: str | None, overrides: list[str] | None, option: str | None) -> Settings:
    """The config may come first or as an option; what has a `=` is an override wherever it stands."""
    words = [word for word in (config, *(overrides or [])) if word is not None]
    files = [word for word in words if "=" not in word] + ([option] if option else [])
    if len(files) != 1:
        raise SettingsError(f"give one YAML config, then section.key=value overrides; got {files or 'no config'}")
    return load_settings(files[0], [word for word in words if "=" in word])


def format_scores(scores: dict[str, float]) -> str:
    """Scores in one line."""
    return "  ".join(f"{name} {value:.3f}" for name, value in scores.items() if name != "step")


def show_scores(scores: dict[str, float]) -> None:
    """Print scores as a table, CIDEr-D on its scale of 0 to 10."""
    from rich.table import Table

    table = Table("metric", "score")
    for name, value in scores.items():
        table.add_row(name, f"{value:.4f}")
    show(table)


def show_rows(rows: dict[str, dict[str, float]]) -> None:
    """Print rows of scores as one table."""
    from rich.table import Column, Table

    metrics = list(next(iter(rows.values())))
    table = Table(Column(no_wrap=True), *metrics)
    for name, scores in rows.items():
        table.add_row(name, *(f"{scores[metric]:.3f}" if metric in scores else "–" for metric in metrics))
    show(table)


def main() -> None:
    """The entry point of the `captioner` command."""
    app()
