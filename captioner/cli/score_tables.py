"""Scores as people read them in the terminal: in one line, as a table, as rows of one table."""

from ..base import show


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
