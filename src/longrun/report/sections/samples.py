"""Sample solutions of every model on every benchmark, with their spans and grades.

Reads the grades of every ``evaluate``. Right and wrong solutions are taken in equal numbers and
evenly over the file, so they show what both look like, not how often each occurs; the counts beside
them say that. Everything is cut to a budget of bytes that all groups share. What a model wrote is
handed on as it is: the page escapes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import chain, zip_longest
from typing import TypeVar, get_args

from longrun.formats.predictions import Grade, Verdict, read_grades, read_summary
from longrun.formats.text.spans import SpanKind
from longrun.report.sections.evaluation import label_models
from longrun.report.stages import Graph

Item = TypeVar("Item")

TOTAL_BYTES = 1_600_000
"""Of escaped text, over all samples of the page."""
MOST_OF_EACH = 8
"""Right and wrong samples per model and benchmark."""
_SAMPLE_BYTES = 24_000
_FRAME_BYTES = 1_200


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a solution of one kind."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One solution; ``left_out`` characters in its middle are not shown."""

    grade: Grade
    pieces: list[Piece]
    left_out: int


@dataclass(frozen=True, slots=True)
class SampleGroup:
    """Solutions of one model on one benchmark."""

    model: str
    benchmark: str
    solutions: int
    right: int
    samples: list[Sample]


@dataclass(frozen=True, slots=True)
class SamplesView:
    """Everything of the samples section."""

    groups: list[SampleGroup]
    kinds: list[str]
    """Kinds of span that occur, for the legend."""

    @property
    def models(self) -> list[str]:
        """Labels of the models, in order."""
        return list(dict.fromkeys(group.model for group in self.groups))

    @property
    def benchmarks(self) -> list[str]:
        """Names of the benchmarks, in order."""
        return list(dict.fromkeys(group.benchmark for group in self.groups))

    @property
    def verdicts(self) -> list[str]:
        """Verdicts of the samples, in their own order."""
        shown = {sample.grade.verdict for group in self.groups for sample in group.samples}
        return [verdict for verdict in get_args(Verdict) if verdict in shown]


def view_samples(graph: Graph, total_bytes: int = TOTAL_BYTES) -> SamplesView | None:
    """Return the samples section; None when nothing was graded.

    Raises:
        InputError: a grades file is missing or damaged.
    """
    stages = graph.of_verb("evaluate")
    summaries = [read_summary(stage.folder) for stage in stages]
    labels = label_models(stages, [{row.model for row in one.rows} for one in summaries])
    sources = [
        (labels[stage.name, model], benchmark, stage.folder / "grades" / model)
        for stage, summary in zip(stages, summaries, strict=True)
        for model, benchmark in dict.fromkeys((row.model, row.benchmark) for row in summary.rows)
    ]
    groups = [
        _group(model, benchmark, read_grades(folder / f"{benchmark}.jsonl"), budget)
        for budget in [total_bytes // max(1, len(sources))]
        for model, benchmark, folder in sources
    ]
    shown = {
        piece.kind.upper() for group in groups for one in group.samples for piece in one.pieces
    }
    kinds = [kind.name for kind in SpanKind if kind.name in shown]
    return SamplesView(groups, kinds) if groups else None


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most ``count`` of ``items``, evenly spaced from the first.

    >>> spread("abcdefgh", 3)
    ['a', 'c', 'f']
    """
    if len(items) <= count:
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]


def cut_middle(pieces: Sequence[tuple[str, str]], most_bytes: int) -> tuple[list[Piece], int]:
    """Return ``pieces`` within ``most_bytes`` of escaped text, and the characters left out.

    Beginning and end are kept, two thirds and one third; what is missing is one stretch between
    them, after the piece in the first returned list whose ``kind`` is "left out".
    """
    whole = sum(_bytes(text) for _, text in pieces)
    if whole <= most_bytes:
        return [Piece(kind, text) for kind, text in pieces], 0
    head = _take(pieces, most_bytes * 2 // 3)
    reverse = [(kind, text[::-1]) for kind, text in reversed(pieces)]
    tail = [
        Piece(piece.kind, piece.text[::-1])
        for piece in reversed(_take(reverse, most_bytes - most_bytes * 2 // 3))
    ]
    kept = sum(len(piece.text) for piece in chain(head, tail))
    left_out = sum(len(text) for _, text in pieces) - kept
    return [*head, Piece("left out", ""), *tail], left_out


def _take(pieces: Sequence[tuple[str, str]], most_bytes: int) -> list[Piece]:
    taken: list[Piece] = []
    left = most_bytes
    for kind, text in pieces:
        size = _bytes(text)
        if size > left:
            # No character escapes to less than a byte; shrink by the share until it fits.
            while size > left:
                text = text[: len(text) * left // size]  # noqa: PLW2901  # the cut is the loop
                size = _bytes(text)
            return [*taken, Piece(kind, text)] if text else taken
        taken.append(Piece(kind, text))
        left -= size
    return taken


def _group(model: str, benchmark: str, grades: Sequence[Grade], budget: int) -> SampleGroup:
    right = [grade for grade in grades if grade.correct]
    wrong = [grade for grade in grades if not grade.correct]
    pairs = zip_longest(spread(right, MOST_OF_EACH), spread(wrong, MOST_OF_EACH))
    samples = []
    for grade in chain.from_iterable(pairs):
        if grade is None:
            continue
        budget -= _FRAME_BYTES
        sample = _sample(grade, min(budget, _SAMPLE_BYTES))
        budget -= sum(_bytes(piece.text) for piece in sample.pieces) + _bytes(grade.problem)
        if budget < 0:
            break
        samples.append(sample)
    order = {id(grade): place for place, grade in enumerate(grades)}
    samples.sort(key=lambda sample: order[id(sample.grade)])
    return SampleGroup(model, benchmark, len(grades), len(right), samples)


def _sample(grade: Grade, most_bytes: int) -> Sample:
    pieces, left_out = cut_middle(grade.pieces, max(0, most_bytes - _bytes(grade.problem)))
    return Sample(grade, pieces, left_out)


def _bytes(text: str) -> int:
    return len(escape(text).encode())
