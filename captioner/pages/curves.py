"""The log of a run as points over its steps.

Knows `metrics.jsonl`; knows nothing about how curves are drawn.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def read_log(file: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def series(logged: Iterable[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    """The (step, value) of one name."""
    return [(line["step"], line[name]) for line in logged if name in line]
