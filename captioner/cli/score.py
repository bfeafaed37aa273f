"""`captioner score`: two files of any program to scores; the work is done in `evaluation/scoring.py`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .score_tables import show_scores
from .terminal import teaching


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
