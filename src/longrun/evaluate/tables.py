"""Summaries as tables: for the terminal and for ``summary.md``. It computes nothing."""

from collections.abc import Sequence

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


def summary_table(rows: Sequence[SummaryRow]) -> Table:
    """Return the figures of every model and benchmark as a table for the terminal."""
    return _table("Evaluation", _COLUMNS, [summary_cells(row) for row in rows])


def difference_table(rows: Sequence[DifferenceRow]) -> Table:
    """Return the paired differences between models as a table for the terminal."""
    return _table("Differences", _DIFFERENCE_COLUMNS, [difference_cells(row) for row in rows])


def summary_markdown(summary: Summary) -> str:
    """Return the same tables as Markdown."""
    parts = ["# Evaluation", _markdown(_COLUMNS, [summary_cells(row) for row in summary.rows])]
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
        f"{_percent(row.pass_at_1)} [{_percent(row.interval[0])}, {_percent(row.interval[1])}]",
        _percent(row.majority),
        "" if row.chance is None else _percent(row.chance),
        _percent(row.no_answer_rate),
        _percent(row.unfinished_rate),
        f"{row.mean_tokens:.0f}",
        f"{row.code_calls:.2f}",
        f"{row.code_errors:.2f}",
    )


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


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Leave out columns that say nothing in any row: a terminal is narrow."""
    shown = [
        index
        for index in range(len(columns))
        if any(row[index] not in {"", "0.00"} for row in rows)
    ]
    table = Table(title=title)
    for index in shown:
        is_text = columns[index] in _TEXT_COLUMNS
        table.add_column(columns[index], justify="left" if is_text else "right")
    for row in rows:
        table.add_row(*(row[index] for index in shown))
    return table


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---" if column in _TEXT_COLUMNS else "---:" for column in columns]
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, rule, *rows))
