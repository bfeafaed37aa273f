"""`captioner evaluate`: captions of a split, their scores, a page about them; the work is done in `evaluation/`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..base import GenerationSettings, Settings, check_writable, is_first_process, load_settings, progress, say
from .options import LoadingGroup, ModelOption, Overrides, RetrievalGroup, grouped
from .score_tables import show_rows, show_scores
from .terminal import fail, holds_lines, is_page, quiet, teaching, write

if TYPE_CHECKING:
    from ..evaluation import Evaluation, EvaluationOptions
    from ..model import Captioner, CaptionerProcessor


WRITTEN = ("id", "caption", "captions")  # of each record, to a file
holds_records = partial(holds_lines, keys=WRITTEN)
holds_faults = partial(holds_lines, keys=("split", "kind", "id", "why", "left_out"))


@dataclass(frozen=True)
class ResultGroup:
    """What is made of the captions beside their scores."""

    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSONL file; without it, the terminal.")] = None
    report: Annotated[
        Path | None, typer.Option(help="An HTML page: scores with and without each modality, samples, attention maps.")
    ] = None
    compare: Annotated[list[str] | None, typer.Option(help="A further captioner for the page; repeatable.")] = None
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Also score each modality blanked, and taken from another sample.")
    ] = False

    def check(self, read: dict[str, list[str]]) -> None:
        """Refuse files that could not be written or are a person's, and captioners for a page nobody asked for.

        Args:
            read: files that the evaluation reads, by what they are in words.
        """
        check_writable(self.output, "`--output`", holds_records, read)
        written = {"the `--output` too": [] if self.output is None else [self.output]}
        check_writable(self.report, "`--report`", is_page, {**read, **written})
        check_writable(self.bad_file, "the list of samples that are left out", holds_faults, {**read, **written})
        if self.compare and self.report is None:
            fail("`--compare` adds captioners to a page; name the page with `--report`", code=2)

    @property
    def bad_file(self) -> Path | None:
        """Where samples that could not be captioned are listed."""
        return None if self.output is None else self.output.with_suffix(".bad.jsonl")


@teaching
@grouped
def evaluate(
    *,
    model: ModelOption,
    overrides: Overrides = None,
    config: Annotated[str | None, typer.Option(help="A YAML file with `data` and `generation`.")] = None,
    split: Annotated[str | None, typer.Option(help="Which split; default: `data.validation_split`.")] = None,
    results: ResultGroup,
    retrieval: RetrievalGroup,
    loading: LoadingGroup,
) -> None:
    """Caption a split and score it with BLEU, ROUGE-L and CIDEr-D.

    `training.java_metrics=[meteor]` and `training.clip_model=…` add METEOR, SPICE and CLIPScore.
    """
    settings = load_settings(config, [*(overrides or []), *retrieval.overrides()])
    results.check(_read_files(settings, config, model))
    from ..adopt import load
    from ..data import BadData, load_split
    from ..evaluation import remarks
    from ..retrieval import retrieved

    quiet()
    split = split or settings.data.validation_split
    samples = load_split(settings.data, split)
    bad = BadData(settings.data.max_bad_share, results.bad_file)
    bad.begin(split, samples)
    options = _options(settings, split, loading)
    loaded = cache(lambda: load(model))
    if settings.data.retrieve is not None:
        samples = retrieved(samples, settings.data, loaded()[0], loading.num_workers)
    measurement = Measurement(model, loaded, samples, settings.generation, options)
    if results.report is None:
        result = measurement.alone()
    else:
        result = measurement.with_page(results.report, results.compare or [])
    if results.output is not None and is_first_process():
        write(({key: record[key] for key in WRITTEN} for record in result.records), results.output)
    show_scores(result.scores)
    say(result.signature)
    for remark in remarks(result.records):
        say(remark)
    bad.of(split).extend(result.bad)
    bad.report()
    if results.ablate:
        show_rows(measurement.ablated())


def _read_files(settings: Settings, config: str | None, model: str) -> dict[str, list[str]]:
    """The files that an evaluation reads, by what they are."""
    data = settings.data
    named = [data.path, *_files_of(data.annotations), *_files_of(data.questions)]
    inside = {"a file of the captioner": model, "a file of the caption store": data.retrieve}
    listed = {what: [str(file) for file in Path(folder).glob("*")] for what, folder in inside.items() if folder}
    return {"the config": [config] if config else [], "a file of the data": list(filter(None, named)), **listed}


def _files_of(named: dict[str, str] | str | None) -> list[str]:
    return list(named.values()) if isinstance(named, dict) else [named or ""]


def _options(settings: Settings, split: str, loading: LoadingGroup) -> "EvaluationOptions":
    from ..evaluation import BorrowedMetrics, EvaluationOptions

    return EvaluationOptions(
        batch_size=loading.batch_size,
        workers=loading.num_workers,
        split=split,
        data=settings.data.name,
        task=settings.data.task,
        borrowed=BorrowedMetrics(settings.training),
    )


@dataclass(frozen=True)
class Measurement:
    """One captioner on one split.

    Args:
        name: the captioner as it was named.
        loaded: loads it, once.
        samples: the split.
        generation: the search.
        options: of every evaluation.
    """

    name: str
    loaded: Callable[[], tuple["Captioner", "CaptionerProcessor"]]
    samples: Any
    generation: GenerationSettings
    options: "EvaluationOptions"

    def alone(self) -> "Evaluation":
        """Captions and scores."""
        from ..evaluation import evaluate

        watch = partial(progress, description="captioning")
        return evaluate(*self.loaded(), self.samples, self.generation, self.options, watch=watch)

    def with_page(self, page: Path, others: Sequence[str]) -> "Evaluation":
        """The same with a page about this captioner and others."""
        from ..pages import report

        return report([self.name, *others], self.samples, self.generation, page, self.options, progress)

    def ablated(self) -> dict[str, dict[str, float]]:
        """Scores with modalities blanked and taken from other samples."""
        from ..evaluation import ablate

        watch = partial(progress, description="ablating")
        return ablate(*self.loaded(), self.samples, self.generation, self.options, watch)
