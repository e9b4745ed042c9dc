"""Benchmarks as data: a file of problems, and what its columns are called. It downloads nothing."""

import contextlib
import itertools
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import msgspec

from longrun.config.benchmarks import Benchmark
from longrun.config.column_text import column_text
from longrun.config.values import Mode
from longrun.errors import InputError
from longrun.formats.predictions import Problem, convert_row, read_rows
from longrun.formats.tables import rows_of


class BenchmarkRow(msgspec.Struct, kw_only=True):
    """The columns of a problem that Longrun knows; a prompt may need others."""

    problem: str
    expected_answer: str | int | float | None = None
    id: str | int | None = None
    mode: Mode | None = None
    source: str | None = None
    total_code_executions: int | None = None
    candidates: list[str] | None = None
    """Final answers of the solutions to choose from, in the order of the prompt."""
    group: str | int | None = None
    """Selection rows that vote together: the id of the problem whose solutions they judge."""


class _TextRow(msgspec.Struct):
    problem: str
    id: str | int | None = None


def read_benchmark(benchmark: Benchmark) -> list[Problem]:
    """Read the problems of ``benchmark``, at most ``limit`` of them.

    Raises:
        InputError: the file is missing or empty, a line is not an object of the expected fields,
            no problem has an answer, an id occurs twice, or a selection problem brings no
            candidates.
    """
    problems = [_complete(record, benchmark, line) for line, record in _read_records(benchmark)]
    _check_number(benchmark, len(problems))
    if not any(problem.expected_answer for problem in problems):
        raise InputError.at(
            benchmark.path,
            problems[0].line,
            "no problem has an expected_answer; the columns are"
            f" {', '.join(problems[0].record)}: name one of them, as in"
            " columns: {expected_answer: [NAME]}",
        )
    seen: dict[str, int] = {}
    for problem in problems:
        if problem.id in seen:
            raise InputError.at(
                benchmark.path,
                problem.line,
                f"id: {problem.id!r} is also the id in line {seen[problem.id]};"
                " make ids unique or leave them out",
            )
        seen[problem.id] = problem.line
    return problems


def read_texts(benchmark: Benchmark) -> dict[str, str]:
    """Return id -> text of the problems of ``benchmark``; answers are not needed.

    Raises:
        InputError: the file is missing or empty, or a row has no ``problem``.
    """
    texts: dict[str, str] = {}
    for line, record in _read_records(benchmark):
        row = convert_row(record, _TextRow, benchmark.path, line)
        own = f"{benchmark.name}-{line}" if row.id is None else str(row.id)
        texts[own if own not in texts else f"{own} (line {line})"] = row.problem
    _check_number(benchmark, len(texts))
    return texts


def _check_number(benchmark: Benchmark, found: int) -> None:
    if benchmark.problems and benchmark.limit is None and found != benchmark.problems:
        raise InputError.at(
            benchmark.path,
            None,
            f"holds {found} problems, {benchmark.like or benchmark.name} has"
            f" {benchmark.problems}; name the whole file, or set problems: null or a limit",
        )
    if not found:
        raise InputError.at(benchmark.path, None, "holds no problem; give one JSON object per line")


def _read_records(benchmark: Benchmark) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line (or row) and record, with the columns that others stand for."""
    parquet = benchmark.path.suffix == ".parquet"
    rows = _read_parquet(benchmark.path) if parquet else read_rows(benchmark.path, dict[str, Any])
    with contextlib.closing(rows):
        for line, record in itertools.islice(rows, benchmark.limit):
            yield line, _with_columns(record, benchmark)


def _read_parquet(path: Path) -> Generator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            batches = (rows_of(batch) for batch in table.iter_batches(use_threads=False))
            yield from enumerate(itertools.chain.from_iterable(batches), start=1)
    except (pa.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError.at(path, None, f"cannot be read ({reason}); fetch it again") from None


def _complete(record: dict[str, Any], benchmark: Benchmark, line: int) -> Problem:
    row = convert_row(record, BenchmarkRow, benchmark.path, line)
    mode = row.mode or benchmark.mode
    budget = row.total_code_executions
    try:
        answer = column_text(row.expected_answer)
    except ValueError as error:
        raise InputError.at(benchmark.path, line, f"expected_answer: {error}") from None
    if benchmark.answer_after:
        answer = answer.rpartition(benchmark.answer_after)[2]
    if mode == "genselect" and row.candidates is None:
        problem = "candidates is missing; list the answers to choose from"
        raise InputError.at(benchmark.path, line, problem)
    if budget is not None and budget < 0:
        problem = f"total_code_executions is {budget}; it must be at least 0"
        raise InputError.at(benchmark.path, line, problem)
    return Problem(
        id=f"{benchmark.name}-{line}" if row.id is None else str(row.id),
        mode=mode,
        source=row.source or benchmark.name,
        problem=row.problem,
        expected_answer=answer.strip(),
        total_code_executions=budget,
        candidates=row.candidates or [],
        group=None if row.group is None else str(row.group),
        line=line,
        record=record,
    )


def _with_columns(record: dict[str, Any], benchmark: Benchmark) -> dict[str, Any]:
    """Return ``record`` with the columns that others stand for."""
    found = dict(record)
    for name, others in benchmark.columns.items():
        present = [record[other] for other in others if other in record]
        if name not in record and present:
            found[name] = present[0]
    return found
