"""The figures of prepared documents: counted per part, kept beside its shard, added at the end.

A tally depends on its part alone, so sums do not depend on workers, order or interruptions.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from longrun.data.documents.compose import Draft, find_notices
from longrun.data.documents.encode import EncodedBatch
from longrun.formats.json_text import read_json
from longrun.formats.plans import TRAIN, VALIDATION
from longrun.formats.stages.atomic import atomic_file
from longrun.formats.stages.ledger import Ledger
from longrun.formats.text.code_style import BUDGET_PATTERN, CodeStyle
from longrun.formats.text.spans import SpanKind

_BUDGET = re.compile(BUDGET_PATTERN)
LENGTH_EDGES: tuple[int, ...] = (0, *(round(2 ** (step / 8)) for step in range(32, 169)))
"""Bins of document lengths in tokens: eight to an octave from 16 to 2 million."""
_LOWER_EDGES = np.array(LENGTH_EDGES[:-1])
"""The last bin also takes whatever is longer."""


class Tally(msgspec.Struct, kw_only=True):
    """What one part, or a whole stage, consists of."""

    lines: int = 0
    """Lines (rows) of the source, blank ones included."""
    ledger: Ledger = msgspec.field(default_factory=Ledger)
    documents: dict[str, int] = {}
    """Per split."""
    tokens: dict[str, int] = {}
    """Per split."""
    lengths: dict[str, list[int]] = {}
    """Mode -> documents in each bin of ``LENGTH_EDGES``."""
    tokens_by_span: dict[str, int] = {}
    """Span kind, in lower case -> tokens."""
    remaining_notices: dict[str, int] = {}
    """Wording of the notice of remaining executions in training records -> how often."""
    exhausted_notices: dict[str, int] = {}
    checksums: dict[str, int] = {}
    """File of the shards, as ``train/00000.bin`` -> CRC-32 of its bytes."""
    first_dropped: dict[str, int] = {}
    """Reason of the ledger -> line of the part (from 0) of the first record dropped for it."""

    def drop(self, reason: str, line: int, *, tokens: int = 0) -> None:
        """Count the record at ``line`` (from 0) of the part, dropped for ``reason``."""
        self.ledger.drop(reason, tokens=tokens)
        self.first_dropped.setdefault(reason, line)

    def keep(
        self, batch: EncodedBatch, drafts: Sequence[Draft], kept: npt.NDArray[np.bool_]
    ) -> None:
        """Count the documents ``kept`` [D] of ``batch``, which was made from ``drafts``."""
        lengths = np.diff(batch.first_tokens)
        held_out = np.array([draft.held_out for draft in drafts], np.bool_)
        modes = np.array([draft.mode for draft in drafts])
        for split, chosen in ((TRAIN, kept & ~held_out), (VALIDATION, kept & held_out)):
            count, tokens = int(chosen.sum()), int(lengths[chosen].sum())
            if count:
                self.ledger.keep(count, tokens=tokens)
                _add(self.documents, {split: count})
                _add(self.tokens, {split: tokens})
        bins = np.searchsorted(_LOWER_EDGES, lengths, side="right") - 1
        for mode in np.unique(modes[kept]).tolist():
            found = np.bincount(bins[kept & (modes == mode)], minlength=len(_LOWER_EDGES))
            counts = self.lengths.get(mode, [0] * len(found))
            self.lengths[mode] = [
                one + two for one, two in zip(counts, found.tolist(), strict=True)
            ]
        for position in np.flatnonzero(kept & ~held_out).tolist():
            if len(drafts[position].runs) > 1:
                self._count_notices(drafts[position])
        in_spans = np.repeat(kept, np.diff(batch.first_spans))
        totals = np.bincount(
            batch.span_kinds[in_spans], batch.span_lengths[in_spans], len(SpanKind)
        )
        names = [kind.name.lower() for kind in SpanKind]
        _add(self.tokens_by_span, dict(zip(names, map(int, totals), strict=True)))

    def add(self, other: "Tally") -> None:
        """Add the figures of ``other``, in place; lines of parts cannot be added up."""
        self.lines += other.lines
        self.ledger.add(other.ledger)
        for name in (
            "documents",
            "tokens",
            "tokens_by_span",
            "remaining_notices",
            "exhausted_notices",
        ):
            _add(getattr(self, name), getattr(other, name))
        for mode, counts in other.lengths.items():
            mine = self.lengths.get(mode, [0] * len(counts))
            self.lengths[mode] = [one + two for one, two in zip(mine, counts, strict=True)]
        self.checksums |= other.checksums

    def save(self, path: Path) -> None:
        """Write the tally as JSON, whole or not at all."""
        with atomic_file(path) as file:
            file.write(msgspec.json.encode(self, order="sorted"))

    @classmethod
    def load(cls, path: Path) -> "Tally":
        """Read a tally.

        Raises:
            InputError: the file is damaged.
        """
        return read_json(path, cls, "delete this file")

    def learn_wording(self, code: CodeStyle) -> CodeStyle:
        """Return ``code`` with the most frequent wording of each notice, where there was one."""
        return replace(
            code,
            remaining_notice=_most_frequent(self.remaining_notices) or code.remaining_notice,
            exhausted_notice=_most_frequent(self.exhausted_notices) or code.exhausted_notice,
        )

    def _count_notices(self, draft: Draft) -> None:
        for notice in find_notices(draft.runs):
            wording = (
                notice.decode().replace("\r\n", "\n").partition("\n")[2].rpartition("\n```")[0]
            )
            number = _BUDGET.search(wording)
            counts = self.exhausted_notices
            if number is not None:
                begin, end = number.span(1)
                wording = f"{wording[:begin]}{{remaining}}{wording[end:]}"
                counts = self.remaining_notices
            counts[wording] = counts.get(wording, 0) + 1


def _add(sums: dict[str, int], amounts: Mapping[str, int]) -> None:
    for name, amount in amounts.items():
        sums[name] = sums.get(name, 0) + amount


def _most_frequent(counts: Mapping[str, int]) -> str | None:
    """Return the key counted most often, of equals the first in the alphabet; None: no key."""
    return min(counts, key=lambda text: (-counts[text], text), default=None)
