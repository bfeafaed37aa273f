"""The log of a run as points over its steps.

Knows `metrics.jsonl`; knows nothing about how curves are drawn.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def read_log(file: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`; what a kill cut short, or an editor broke, is left out."""
    logged = []
    for line in file.read_text(encoding="utf-8-sig", errors="replace").split("\n"):
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and _is_number(values.get("step")):
            logged.append(values)
    return logged


def series(logged: Iterable[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    """The (step, value) of one name, where it is a number."""
    return [(line["step"], line[name]) for line in logged if _is_number(line.get(name))]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
