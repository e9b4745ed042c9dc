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
    "sampling error",
    "majority [95 %]",
    "chance",
    "no answer",
    "unfinished",
    "tokens",
    "code calls",
    "code errors",
)
_DIFFERENCE_COLUMNS = ("model", "against", "benchmark", "mode", "problems", "pass@1 [95 %]")
_PART_COLUMNS = (
    "model",
    "benchmark",
    "mode",
    "source",
    "problems",
    "samples",
    "pass@1 [95 %]",
    "majority [95 %]",
    "unfinished",
    "tokens",
    "code calls",
    "code errors",
)
_TEXT_COLUMNS = {"model", "against", "benchmark", "mode", "source"}
INTERVAL_NOTE = (
    "Intervals: Wilson score, the problem as the unit (effective sample size over samples)."
    " Sampling error: the part of pass@1's standard error that more samples would remove."
    " Differences: paired by problem, Agresti-Min. Unfinished: did not end by itself and gave no"
    " answer. Majority: answers that mean the same vote together, those without an answer not at"
    " all, ties share the credit; in mode genselect it is the vote over the repeated selections."
    " pass@k, majority@k and best@k: exact expectations over all choices of k samples."
)


def accuracy_table(rows: Sequence[SummaryRow]) -> Table:
    """Return models down, benchmarks across: what a person looks for first."""
    columns, cells = accuracy_cells(rows)
    table = Table(title="Accuracy, % [95 % interval]", title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in _TEXT_COLUMNS else "right")
    for row in cells:
        table.add_row(*row)
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
    if summary.parts:
        cells = [_part_cells(row) for row in summary.parts]
        parts += ["## By source and mode", _markdown(_PART_COLUMNS, cells)]
    if any(row.at_k for row in summary.rows):
        parts += ["## With k samples", _markdown(*at_k_cells(summary.rows))]
    if summary.differences:
        cells = [difference_cells(row) for row in summary.differences]
        parts += ["## Differences", _markdown(_DIFFERENCE_COLUMNS, cells)]
    return "\n\n".join([*parts, INTERVAL_NOTE]) + "\n"


def at_k_cells(rows: Sequence[SummaryRow]) -> tuple[list[str], list[list[str]]]:
    """Return column names and one row for every k of every model and benchmark."""
    has_best = any(entry.best is not None for row in rows for entry in row.at_k)
    columns = ["model", "benchmark", "mode", "k", "pass@k [95 %]", "majority@k [95 %]"]
    cells = []
    for row in rows:
        for entry in row.at_k:
            line = [row.model, row.benchmark, row.mode, str(entry.k)]
            line += [_with_interval(entry.pass_at_k, entry.pass_interval)]
            line += [_with_interval(entry.majority, entry.majority_interval)]
            line += [_with_interval(entry.best, entry.best_interval)] if has_best else []
            cells.append(line)
    return [*columns, *(["best@k [95 %]"] if has_best else [])], cells


def summary_cells(row: SummaryRow) -> tuple[str, ...]:
    """Write one row of figures as people read it."""
    return (
        row.model,
        row.benchmark,
        row.mode,
        str(row.problems),
        str(row.samples),
        _accuracy(row),
        "" if row.sampling_error is None else _percent(row.sampling_error),
        _with_interval(row.majority, row.majority_interval),
        "" if row.chance is None else _percent(row.chance),
        _percent(row.no_answer_rate),
        _percent(row.unfinished_rate),
        f"{row.mean_tokens:.0f}",
        f"{row.code_calls:.2f}",
        f"{row.code_errors:.2f}",
    )


def _part_cells(row: SummaryRow) -> tuple[str, ...]:
    return (
        row.model,
        row.benchmark,
        row.mode,
        row.source or "",
        str(row.problems),
        str(row.samples),
        _accuracy(row),
        _with_interval(row.majority, row.majority_interval),
        _percent(row.unfinished_rate),
        f"{row.mean_tokens:.0f}",
        f"{row.code_calls:.2f}",
        f"{row.code_errors:.2f}",
    )


def _accuracy(row: SummaryRow | None) -> str:
    return "" if row is None else _with_interval(row.pass_at_1, row.interval)


def _with_interval(share: float | None, interval: tuple[float, float] | None) -> str:
    if share is None:
        return ""
    if interval is None:
        return _percent(share)
    return f"{_percent(share)} [{_percent(interval[0])}, {_percent(interval[1])}]"


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
