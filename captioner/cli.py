"""The commands. Each checks what it was given, then imports what it needs and calls one function that does the work.

Exit codes: 0 done, 1 the work failed in part or whole, 2 the command was used wrongly.
"""

import json
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from .progress import console, errors, progress, say
from .settings import GenerationSettings, Settings, SettingsError, load_settings

app = typer.Typer(
    help="An image captioner that looks and reads.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelOption = Annotated[str, typer.Option("--model", "-m", help="A shipped name, a directory or a Hub repository.")]
BeamsOption = Annotated[int, typer.Option("--beams", "--num-beams", min=1, help="Beams of the search; 1 is greedy.")]
BatchOption = Annotated[int, typer.Option("--batch-size", min=1, help="Images at a time.")]
WorkersOption = Annotated[int, typer.Option("--num-workers", min=0, help="Processes that decode images.")]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="JSONL file; without it, the terminal.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Settings, as section.key=value.")]


def teaching(command: Callable) -> Callable:
    """Turn mistakes that the package explains into one line and exit code 2."""

    @wraps(command)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except ValueError as error:
            if not type(error).__module__.startswith("captioner."):
                raise
            fail(str(error), code=2)

    return checked


def fail(message: str, code: int) -> NoReturn:
    """Say what went wrong in one line and leave."""
    errors.print(f"[bold red]error:[/] {message}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


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
    from .demo import run_demo

    writable(output)
    run_demo(output, scenes, steps)


@app.command()
@teaching
def train(
    config: Annotated[str | None, typer.Argument(help="A YAML file with the settings of the run.")] = None,
    overrides: Overrides = None,
    config_option: Annotated[str | None, typer.Option("--config", help="The same, as an option.")] = None,
) -> None:
    """Train a captioner from a YAML config and `section.key=value` overrides."""
    settings = _run_settings(config, overrides, config_option)
    from .training import train as run

    quiet()

    best = run(settings)
    say(f"best step {best['step']}: {format_scores(best)}; saved in {settings.training.output_dir}/best")


def train_main() -> None:
    """The command line of `train.py`."""
    single = typer.Typer(pretty_exceptions_enable=False)
    single.command()(train)
    single()


@app.command()
@teaching
def caption(
    paths: Annotated[list[str], typer.Argument(metavar="IMAGE|FOLDER…", help="Images, and folders of images.")],
    model: ModelOption,
    context: Annotated[str | None, typer.Option(help="Text to read beside every image.")] = None,
    beams: BeamsOption = 3,
    captions: Annotated[
        int, typer.Option("--captions", "--num-return-sequences", min=1, help="Captions per image.")
    ] = 1,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "--max-length", min=1)] = 30,
    output: OutputOption = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Look into folders of folders.")] = False,
    batch_size: BatchOption = 16,
    num_workers: WorkersOption = 2,
) -> None:
    """Caption images and folders of images."""
    from .captioning import Captioning, find_images

    if captions > beams:
        fail(
            f"`--captions` is {captions}, but a search with {beams} beams finds {beams}; raise `--beams`",
            code=2,
        )
    writable(output)
    files = find_images(paths, recursive)
    generation = GenerationSettings(num_beams=beams, max_new_tokens=max_new_tokens, num_return_sequences=captions)
    from .adopt import load

    quiet()
    work = Captioning(*load(model), generation, context, batch_size, num_workers)
    failed = write(progress(work.run(files), "captioning", total=len(files)), output)
    if output is not None:
        say(f"{len(files) - failed} of {len(files)} images captioned, written to {output}")
    if failed:
        fail(f"{failed} of {len(files)} images could not be read; the others are captioned", code=1)


@app.command()
@teaching
def evaluate(
    model: ModelOption,
    overrides: Overrides = None,
    config: Annotated[str | None, typer.Option(help="A YAML file with `data` and `generation`.")] = None,
    split: Annotated[str | None, typer.Option(help="Which split; default: `data.validation_split`.")] = None,
    output: OutputOption = None,
    batch_size: BatchOption = 64,
    num_workers: WorkersOption = 2,
) -> None:
    """Caption a split and score it with BLEU, ROUGE-L and CIDEr-D."""
    settings = load_settings(config, overrides or [])
    writable(output)
    from .adopt import load
    from .data import load_split
    from .evaluation import evaluate as run

    quiet()
    samples = load_split(settings.data, split or settings.data.validation_split)
    result = run(
        *load(model),
        samples,
        settings.generation,
        batch_size=batch_size,
        workers=num_workers,
        watch=lambda batches: progress(batches, "captioning"),
    )
    if output is not None:
        write(
            ({"id": r["id"], "caption": r["caption"], "captions": r["captions"]} for r in result.records),
            output,
        )
    show_scores(result.scores)


@app.command()
@teaching
def score(
    predictions: Annotated[Path, typer.Argument(help="JSONL: lines with `id` and `caption`.")],
    references: Annotated[Path, typer.Argument(help="JSONL: lines with `id` and `captions`.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score captions that any program wrote."""
    from .scoring import score_files

    scores = score_files(predictions, references)
    print(json.dumps(scores)) if as_json else show_scores(scores)


def _run_settings(config: str | None, overrides: list[str] | None, option: str | None) -> Settings:
    """The config may come first or as an option; what has a `=` is an override wherever it stands."""
    words = [word for word in (config, *(overrides or [])) if word is not None]
    files = [word for word in words if "=" not in word] + ([option] if option else [])
    if len(files) != 1:
        raise SettingsError(f"give one YAML config, then section.key=value overrides; got {files or 'no config'}")
    return load_settings(files[0], [word for word in words if "=" in word])


def quiet() -> None:
    """Our own bars are enough: none from transformers for loading and saving."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def writable(path: Path | None) -> None:
    """Refuse an output that could not be written, before any work is done."""
    if path is None:
        return
    if path.is_dir():
        fail(f"`--output` is the folder {path}; name a file in it", code=2)
    if not path.parent.is_dir():
        fail(f"`--output` is in {path.parent}, which is no folder; make it first", code=2)
    existed = path.exists()
    try:
        path.open("a").close()
    except OSError as error:
        fail(f"cannot write to `--output` {path}: {error.strerror}", code=2)
    if not existed:
        path.unlink()


def write(records: Iterable[dict[str, Any]], output: Path | None) -> int:
    """Write records as they come, a line each, to a file or the terminal; → how many hold an error."""
    failed = 0
    sink = sys.stdout if output is None else output.open("w", encoding="utf-8")
    try:
        for record in records:
            failed += "error" in record
            print(_line(record, plain=output is None), file=sink, flush=True)
    finally:
        if output is not None:
            sink.close()
    return failed


def _line(record: dict[str, Any], plain: bool) -> str:
    """JSON for files; for the terminal, the image and what it shows."""
    if not plain:
        return json.dumps(record, ensure_ascii=False)
    said = record.get("captions") or [record.get("caption", f"({record.get('error')})")]
    return "\n".join(f"{record['image']}\t{text}" for text in said)


def format_scores(scores: dict[str, float]) -> str:
    """Scores in one line."""
    return "  ".join(f"{name} {value:.3f}" for name, value in scores.items() if name != "step")


def show_scores(scores: dict[str, float]) -> None:
    """Print scores as a table, CIDEr-D on its scale of 0 to 10."""
    from rich.table import Table

    table = Table("metric", "score")
    for name, value in scores.items():
        table.add_row(name, f"{value:.4f}")
    console.print(table)


def main() -> None:
    """The entry point of the `captioner` command."""
    app()
