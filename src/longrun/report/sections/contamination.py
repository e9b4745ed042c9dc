"""Benchmark problems among the training problems, as every ``check_contamination`` found them.

Of every benchmark problem the strongest match is shown; all of them are in ``matches.jsonl``.
"""

from contextlib import closing
from dataclasses import dataclass
from typing import get_args

from longrun.formats.contamination import (
    MATCHES_NAME,
    Contamination,
    Match,
    read_contamination,
)
from longrun.formats.predictions import read_rows
from longrun.formats.text.shared_words import Kind
from longrun.report.stages import FinishedStage, Graph

MOST_MATCHES = 20
_KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class ContaminationView:
    """What one stage found."""

    stage: str
    figures: Contamination
    matches: list[Match]
    """The strongest one of each benchmark problem, the strongest of those first."""
    num_matches: int


def view_contamination(graph: Graph) -> list[ContaminationView]:
    """Return the findings of every ``check_contamination`` of the run.

    Raises:
        InputError: a file of findings is missing or damaged.
    """
    return [_view(stage) for stage in graph.of_verb("check_contamination")]


def _view(stage: FinishedStage) -> ContaminationView:
    best: dict[tuple[str, str], Match] = {}
    num_matches = 0
    with closing(read_rows(stage.folder / MATCHES_NAME, Match)) as rows:
        for _, match in rows:
            num_matches += 1
            key = match.benchmark, match.id
            best[key] = max(best.get(key, match), match, key=_strength)
    matches = sorted(best.values(), key=_strength, reverse=True)
    figures = read_contamination(stage.folder)
    return ContaminationView(stage.name, figures, matches[:MOST_MATCHES], num_matches)


def _strength(match: Match) -> tuple[int, float]:
    return -_KINDS.index(match.kind), match.overlap
