"""Benchmark problems among the training problems, as every ``check_contamination`` found them.

Of the matches the strongest are shown, the rest is counted: they are in ``matches.jsonl``.
"""

import heapq
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
from longrun.formats.shared_words import Kind
from longrun.report.stages import FinishedStage, Graph

MOST_MATCHES = 20
_KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class ContaminationView:
    """What one stage found."""

    stage: str
    figures: Contamination
    matches: list[Match]
    """The strongest ones."""
    num_matches: int


def view_contamination(graph: Graph) -> list[ContaminationView]:
    """Return the findings of every ``check_contamination`` of the run.

    Raises:
        InputError: a file of findings is missing or damaged.
    """
    return [_view(stage) for stage in graph.of_verb("check_contamination")]


def _view(stage: FinishedStage) -> ContaminationView:
    num_matches, best = 0, list[tuple[int, float, int, Match]]()
    with closing(read_rows(stage.folder / MATCHES_NAME, Match)) as rows:
        for line, match in rows:
            num_matches += 1
            entry = (-_KINDS.index(match.kind), match.overlap, -line, match)
            if len(best) < MOST_MATCHES:
                heapq.heappush(best, entry)
            else:
                heapq.heappushpop(best, entry)
    matches = [entry[-1] for entry in sorted(best, reverse=True)]
    return ContaminationView(stage.name, read_contamination(stage.folder), matches, num_matches)
