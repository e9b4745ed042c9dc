"""Summaries as tables: for the terminal and for ``summary.md``. It computes nothing."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from longrun.formats.predictions import DifferenceRow, Summary, SummaryRow

_COLUMNS = (
    "model",
    "benchmark",
    "mode",
    "problems",
    "samples",
    "pass@1 [95 %]",
    "majority",
    "chance",
    "no answer",
    "unfinished",
    "tokens",
    "code calls",
    "code errors",
)
_DIFFERENCE_COLUMNS = ("model", "against", "benchmark", "mode", "problems", "pass@1 [95 %]")
_TEXT_COLUMNS = {"model", "against", "benchmark", "mode"}
INTERVAL_NOTE = (
    "Intervals: Wilson score, the problem as the unit (effective sample size over samples)."
    " Differences: paired by problem, Agresti-Min. Unfinished: did not end by itself and gave no"
    " answer."
)


def accuracy_table(rows: Sequence[SummaryRow]) -> Table:
    """Return models down, benchmarks across: what a person looks for first."""
    columns, cells = accuracy_cells(rows)
    table = Table(title="Accuracy, % [95 % interval]", title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in _TEXT_COLUMNS else "right")
    for row in cells:
        table.add_row(*map(escape, row))
    return table


def accuracy_cells(rows: Sequence[SummaryRow]) -> tuple[list[str], list[list[str]]]:
    """Return column names and rows: pass@1 of every model, then what blind choice would score."""
    benchmarks = list(dict.fromkeys(row.benchmark for row in rows))
    models = list(dict.fromkeys(row.model for row in rows))
    by_key = {(row.model, row.benchmark): row for row in rows}
    cells = [
        [model, *(_accuracy(by_key.get((model, benchmark))) for benchmark in benchmarks)]
        for model in models
    ]
    chances = {row.benchmark: row.chance for row in rows if row.chance is not None}
    if chances:
        shown = [_percent(chances[name]) if name in chances else "" for name in benchmarks]
        cells.append(["(chance)", *shown])
    return ["model", *benchmarks], cells


def summary_markdown(summary: Summary) -> str:
    """Return the same tables as Markdown."""
    parts = ["# Evaluation", _markdown(*accuracy_cells(summary.rows))]
    parts += ["## Every figure", _markdown(_COLUMNS, [summary_cells(row) for row in summary.rows])]
    if summary.differences:
        cells = [difference_cells(row) for row in summary.differences]
        parts += ["## Differences", _markdown(_DIFFERENCE_COLUMNS, cells)]
    return "\n\n".join([*parts, INTERVAL_NOTE]) + "\n"


def summary_cells(row: SummaryRow) -> tuple[str, ...]:
    """Write one row of figures as people read it."""
    return (
        row.model,
        row.benchmark,
        row.mode,
        str(row.problems),
        str(row.samples),
        _accuracy(row),
        _percent(row.majority),
        "" if row.chance is None else _percent(row.chance),
        _percent(row.no_answer_rate),
        _percent(row.unfinished_rate),
        f"{row.mean_tokens:.0f}",
        f"{row.code_calls:.2f}",
        f"{row.code_errors:.2f}",
    )


def _accuracy(row: SummaryRow | None) -> str:
    if row is None:
        return ""
    low, high = row.interval
    return f"{_percent(row.pass_at_1)} [{_percent(low)}, {_percent(high)}]"


def difference_cells(row: DifferenceRow) -> tuple[str, ...]:
    """Write one difference as people read it."""
    low, high = row.interval
    return (
        row.model,
        row.baseline,
        row.benchmark,
        row.mode,
        str(row.problems),
        f"{_points(row.difference)} [{_points(low)}, {_points(high)}]",
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---" if column in _TEXT_COLUMNS else "---:" for column in columns]
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, rule, *rows))
