"""What ``check_contamination`` found: benchmark problems among the training problems.

``matches.jsonl`` has one line for every training problem and benchmark problem that share text,
``contamination.json`` the figures of every benchmark.
"""

from pathlib import Path

import msgspec

from longrun.formats.json_text import read_json
from longrun.formats.text.shared_words import Kind

MATCHES_NAME = "matches.jsonl"
CONTAMINATION_NAME = "contamination.json"


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """A training problem that shares text with a benchmark problem."""

    benchmark: str
    id: str
    """Of the benchmark problem."""
    kind: Kind
    overlap: float
    """Share of the benchmark problem's word sequences that the training problem holds."""
    problem: str
    training_problem: str
    folder: str
    split: str
    document: int
    """First document with that problem; counts from 0 in the split."""
    documents: int
    """Documents of the split with that problem."""
    source: str
    """``file:line`` of the first one's record."""
    mode: str


class BenchmarkFindings(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one benchmark. A problem counts once, where the most of it was found."""

    benchmark: str
    problems: int
    same_text: int
    all_words: int
    n_words: int
    training_problems: int
    """Training problems that share text with any of its problems."""
    documents: int
    """Documents of those."""

    @property
    def found(self) -> int:
        """Problems of which something was found."""
        return self.same_text + self.all_words + self.n_words


class Contamination(msgspec.Struct, frozen=True, kw_only=True):
    """What ``contamination.json`` holds."""

    ngram: int
    documents: int
    training_problems: int
    """Different problems in the documents, per split."""
    benchmarks: list[BenchmarkFindings]


def read_contamination(folder: Path) -> Contamination:
    """Read the figures in an output folder of ``check_contamination``.

    Raises:
        InputError: there are none or they are damaged.
    """
    path = folder / CONTAMINATION_NAME
    return read_json(path, Contamination, "run check_contamination again")
