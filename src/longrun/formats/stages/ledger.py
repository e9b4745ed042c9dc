"""The ledger: records and tokens in = kept + dropped by each named reason, and it adds up."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Ledger:
    """Double-entry book of one stage. ``kept`` and ``dropped`` count records and tokens.

    >>> ledger = Ledger()
    >>> ledger.take(3)
    >>> ledger.keep(tokens=70)
    >>> ledger.drop("too long", tokens=90)
    >>> ledger.drop("no answer")
    >>> ledger.check()
    >>> dict(ledger.dropped)
    {'too long': 1, 'no answer': 1}
    """

    records_in: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    tokens_kept: int = 0
    tokens_dropped: dict[str, int] = field(default_factory=dict)

    def take(self, records: int = 1) -> None:
        """Count ``records`` that came in."""
        self.records_in += records

    def keep(self, records: int = 1, *, tokens: int = 0) -> None:
        """Count ``records`` that go on, with their ``tokens``."""
        self.kept += records
        self.tokens_kept += tokens

    def drop(self, reason: str, records: int = 1, *, tokens: int = 0) -> None:
        """Count ``records`` left out for ``reason``; ``tokens`` where they are known."""
        self.dropped[reason] = self.dropped.get(reason, 0) + records
        if tokens:
            self.tokens_dropped[reason] = self.tokens_dropped.get(reason, 0) + tokens

    def add(self, other: "Ledger") -> None:
        """Add the entries of ``other``, in place."""
        self.records_in += other.records_in
        self.kept += other.kept
        self.tokens_kept += other.tokens_kept
        self.dropped = _sum(self.dropped, other.dropped)
        self.tokens_dropped = _sum(self.tokens_dropped, other.tokens_dropped)

    def check(self) -> None:
        """Assert that nothing was lost; a failure is a bug of the stage, not of its input."""
        out = self.kept + sum(self.dropped.values())
        if out != self.records_in:
            raise AssertionError(f"ledger does not add up: {self.records_in} in, {out} out: {self}")


def _sum(one: Mapping[str, int], two: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted((Counter(one) + Counter(two)).items()))
