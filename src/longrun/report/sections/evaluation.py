"""The accuracies of a run: models as rows, benchmarks as columns, with intervals and chance.

Reads ``summary.json`` of every ``evaluate``. A label that two evaluations gave to different models
is told apart by the name of the stage.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from longrun.formats.predictions import AtK, DifferenceRow, Summary, SummaryRow, read_summary
from longrun.report.stages import FinishedStage, Graph


@dataclass(frozen=True, slots=True)
class Cell:
    """One model on one benchmark."""

    figures: SummaryRow
    best: bool
    """Nobody has a higher accuracy."""


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model; None where it was not evaluated."""

    model: str
    cells: list[Cell | None]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One column. Counts and chance are ``(lowest, highest)`` over the models."""

    name: str
    mode: str
    problems: tuple[int, int]
    samples: tuple[int, int]
    chance: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class EvaluationView:
    """Everything of the evaluation section."""

    benchmarks: list[Benchmark]
    models: list[ModelRow]
    differences: list[DifferenceRow]
    parts: list[tuple[str, SummaryRow]]
    """``(model, figures)`` of every source and mode of benchmarks that mix several."""

    @property
    def sampled(self) -> list[int]:
        """Return the indices of the benchmarks with several solutions per problem."""
        return [index for index in range(len(self.benchmarks)) if self.curves(index)]

    @property
    def num_curve_rows(self) -> int:
        """Figures by k, over all models and benchmarks."""
        return sum(len(figures) for index in self.sampled for _, figures in self.curves(index))

    @property
    def has_best(self) -> bool:
        """Whether rewards were given for any model."""
        return any(
            one.best is not None
            for index in self.sampled
            for _, figures in self.curves(index)
            for one in figures
        )

    def curves(self, index: int) -> list[tuple[str, list[AtK]]]:
        """Return ``(model, figures by k)`` of the models sampled more than once."""
        return [
            (row.model, cell.figures.at_k)
            for row in self.models
            if (cell := row.cells[index]) is not None and cell.figures.at_k
        ]


def view_evaluation(graph: Graph) -> EvaluationView | None:
    """Return the evaluation section; None when nothing was evaluated.

    Raises:
        InputError: a summary is missing or damaged.
    """
    stages = graph.of_verb("evaluate")
    summaries = [read_summary(stage.folder) for stage in stages]
    labels = label_models(stages, [{row.model for row in one.rows} for one in summaries])
    found: dict[str, dict[tuple[str, str], SummaryRow]] = defaultdict(dict)
    columns: dict[tuple[str, str], list[SummaryRow]] = defaultdict(list)
    for stage, summary in zip(stages, summaries, strict=True):
        for row in summary.rows:
            key = row.benchmark, row.mode
            found[labels[stage.name, row.model]][key] = row
            columns[key].append(row)
    if not columns:
        return None
    top = {key: max(row.pass_at_1 for row in rows) for key, rows in columns.items()}
    models = [
        ModelRow(model, [_cell(rows.get(key), top[key]) for key in columns])
        for model, rows in found.items()
    ]
    benchmarks = [_benchmark(key, rows) for key, rows in columns.items()]
    differences = [row for summary in summaries for row in _between_neighbours(summary)]
    parts = [
        (labels[stage.name, row.model], row)
        for stage, summary in zip(stages, summaries, strict=True)
        for row in summary.parts
    ]
    return EvaluationView(benchmarks, models, differences, parts)


def label_models(
    stages: Sequence[FinishedStage], models: Sequence[set[str]]
) -> dict[tuple[str, str], str]:
    """Return ``(stage, model) -> label``; a model of one stage only keeps its own label."""
    return {
        (stage.name, model): model
        if sum(model in others for others in models) == 1
        else f"{model} ({stage.name})"
        for stage, names in zip(stages, models, strict=True)
        for model in names
    }


def _between_neighbours(summary: Summary) -> list[DifferenceRow]:
    """Return each model against the one before it; the other pairs are in ``summary.md``."""
    order = list(dict.fromkeys(row.model for row in summary.rows))
    neighbours = set(pairwise(order))
    return [row for row in summary.differences if (row.baseline, row.model) in neighbours]


def _cell(row: SummaryRow | None, top: float) -> Cell | None:
    return None if row is None else Cell(row, best=row.pass_at_1 == top and top > 0)


def _benchmark(key: tuple[str, str], rows: Sequence[SummaryRow]) -> Benchmark:
    chances = [row.chance for row in rows if row.chance is not None]
    problems, samples = [row.problems for row in rows], [row.samples for row in rows]
    return Benchmark(
        name=key[0],
        mode=key[1],
        problems=(min(problems), max(problems)),
        samples=(min(samples), max(samples)),
        chance=(min(chances), max(chances)) if chances else None,
    )
