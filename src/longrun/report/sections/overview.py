"""The head of the page: when, how large, how long.

Reads ``config.json`` of the model that the last training exported, and figures of other sections.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from longrun.formats.stages.progress import format_count, format_seconds
from longrun.report.sections.training import TrainingView, read_shape
from longrun.report.stages import Graph

_MODEL_FOLDERS = {"train": "final", "average": "model", "init_model": "."}


@dataclass(frozen=True, slots=True)
class KeyFigure:
    """One figure of the head with a word above and a line below."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything of the head."""

    title: str
    finished: str
    """When the last stage ended, in UTC: the page of the same run is the same bytes."""
    version: str
    figures: list[KeyFigure]


def view_overview(title: str, graph: Graph, training: TrainingView | None) -> Overview:
    """Return the head of the page.

    Raises:
        InputError: the configuration of the trained model is damaged or of an unknown family.
    """
    ended = max(stage.finished_at for stage in graph.stages)
    figures = [
        _model_figure(graph),
        _data_figure(graph),
        _training_figure(training),
        _time_figure(graph),
    ]
    return Overview(
        title=title,
        finished=f"{datetime.fromtimestamp(ended, UTC):%d %B %Y, %H:%M} UTC",
        version=", ".join(sorted({stage.manifest.version for stage in graph.stages})),
        figures=[figure for figure in figures if figure is not None],
    )


def _model_figure(graph: Graph) -> KeyFigure | None:
    for stage in reversed(graph.stages):
        if stage.verb in _MODEL_FOLDERS:
            path = stage.folder / _MODEL_FOLDERS[stage.verb] / "config.json"
            if path.exists():
                shape = read_shape(path)
                detail = f"parameters, {shape.num_layers} layers of width {shape.hidden_size}"
                return KeyFigure("Model", format_count(shape.parameters), detail)
    return None


def _data_figure(graph: Graph) -> KeyFigure | None:
    books = [
        stage.manifest.ledger
        for stage in graph.of_verb("prepare")
        if stage.manifest.ledger is not None
    ]
    if not books:
        return None
    largest = max(books, key=lambda ledger: ledger.kept)
    detail = f"documents of {largest.records_in:,} records"
    if largest.tokens_kept:
        detail += f", {format_count(largest.tokens_kept)} tokens"
    return KeyFigure("Data", f"{largest.kept:,}", detail)


def _training_figure(training: TrainingView | None) -> KeyFigure | None:
    if training is None:
        return None
    steps = sum(one.steps for one in training.rounds)
    tokens = sum(one.tokens for one in training.rounds)
    rounds = len(training.rounds)
    detail = f"steps in {rounds} round{'s' * (rounds > 1)}, {format_count(tokens)} tokens"
    return KeyFigure("Training", f"{steps:,}", detail)


def _time_figure(graph: Graph) -> KeyFigure:
    seconds = sum(stage.manifest.wall_seconds for stage in graph.stages)
    detail = f"wall time, sum of {len(graph.stages)} stages"
    return KeyFigure("Time", format_seconds(seconds), detail)
