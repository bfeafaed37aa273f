"""`captioner train`, and the script `train.py` for launchers: which settings a run has; the loop is in `training/`."""

from collections.abc import Sequence
from typing import Annotated

import typer

from ..base import Settings, SettingsError, load_settings, say
from .options import Overrides, RetrievalGroup, grouped
from .score_tables import format_scores
from .terminal import quiet, teaching


@teaching
@grouped
def train(
    *,
    config: Annotated[str | None, typer.Argument(help="A YAML file with the settings of the run.")] = None,
    overrides: Overrides = None,
    config_option: Annotated[str | None, typer.Option("--config", help="The same, as an option.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint, if there is one.")
    ] = False,
    retrieval: RetrievalGroup,
) -> None:
    """Train a captioner from a YAML config and `section.key=value` overrides."""
    settings = _settings([config, *(overrides or []), *retrieval.overrides()], config_option)
    from ..training import train as run

    quiet()
    best = run(settings, resume)
    say(f"best step {best['step']}: {format_scores(best)}; saved in {settings.training.output_dir}/best")


def train_main() -> None:
    """The command line of `train.py`."""
    single = typer.Typer(pretty_exceptions_enable=False)
    single.command()(train)
    single()


def _settings(words: Sequence[str | None], config: str | None) -> Settings:
    """The config may come first or as an option; what has a `=` is an override wherever it stands."""
    given = [word for word in words if word is not None]
    files = [word for word in given if "=" not in word] + ([config] if config else [])
    if len(files) != 1:
        raise SettingsError(f"give one YAML config, then section.key=value overrides; got {files or 'no config'}")
    return load_settings(files[0], [word for word in given if "=" in word])
