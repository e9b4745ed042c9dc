"""The data of a run: what every stage kept and why it dropped the rest, lengths, spans, packs.

Reads ledgers from manifests, ``stats.json`` of ``prepare`` and ``packs.json`` of ``pack``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec

from longrun.errors import InputError
from longrun.formats.json_text import read_json
from longrun.formats.plans import PacksInfo
from longrun.formats.stages.ledger import Ledger
from longrun.report.stages import FinishedStage, Graph

_UNITS = {"pack": "documents", "train": "packs", "generate": "solutions"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a ledger."""

    label: str
    records: int
    share: float
    """Of the records that came in."""
    tokens: int | None
    """None where they were never counted."""
    example: str | None = None
    """``file:line`` of the first such record, where the stage remembers it."""


@dataclass(frozen=True, slots=True)
class LedgerView:
    """The book of one stage: records in = kept + dropped by each reason."""

    stage: str
    unit: str
    """What is counted: records, documents, packs or solutions."""
    records_in: int
    dropped: list[Entry]
    kept: Entry


@dataclass(frozen=True, slots=True)
class SpanTokens:
    """Tokens of one kind of span."""

    kind: str
    tokens: int
    share: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """Documents of one mode by length in tokens; ``edges`` has one entry more than ``counts``."""

    mode: str
    edges: list[float]
    counts: list[int]

    @property
    def documents(self) -> int:
        """Documents in all bins."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class DocumentsView:
    """What one ``prepare`` made."""

    stage: str
    spans: list[SpanTokens]
    histograms: list[Histogram]


@dataclass(frozen=True, slots=True)
class PackRow:
    """One epoch's plan of one ``pack``."""

    stage: str
    pack_size: int
    epoch: int
    packs: int
    fill: float
    """Share of the pack that holds tokens, mean over the packs."""


@dataclass(frozen=True, slots=True)
class DataView:
    """Everything of the data section."""

    ledgers: list[LedgerView]
    documents: list[DocumentsView]
    packs: list[PackRow]


_MAKE_DOCUMENTS = ("prepare", "merge")


class _Lengths(msgspec.Struct):
    edges: list[float]
    counts: list[int]


class _PrepareStats(msgspec.Struct):
    lengths: dict[str, _Lengths]
    tokens_by_span: dict[str, int]
    examples: dict[str, str] = {}


def view_data(graph: Graph) -> DataView | None:
    """Return the data section; None when no stage of the run handled records.

    Raises:
        InputError: a file of figures is missing or damaged.
    """
    view = DataView(
        ledgers=[_ledger(stage, ledger) for stage, ledger in _books(graph)],
        documents=[_documents(stage) for verb in _MAKE_DOCUMENTS for stage in graph.of_verb(verb)],
        packs=[row for stage in graph.of_verb("pack") for row in _packs(stage)],
    )
    return view if view.ledgers or view.documents or view.packs else None


def _books(graph: Graph) -> Iterator[tuple[FinishedStage, Ledger]]:
    """Yield the ledgers of the data's way, and those of other stages that dropped something."""
    for stage in graph.stages:
        ledger = stage.manifest.ledger
        if ledger is not None and (stage.verb in (*_MAKE_DOCUMENTS, "pack") or ledger.dropped):
            yield stage, ledger


def _ledger(stage: FinishedStage, ledger: Ledger) -> LedgerView:
    examples = _prepare_stats(stage).examples if stage.verb in _MAKE_DOCUMENTS else {}
    total = ledger.records_in or 1
    dropped = [
        Entry(
            reason,
            records,
            records / total,
            ledger.tokens_dropped.get(reason),
            examples.get(reason),
        )
        for reason, records in sorted(ledger.dropped.items(), key=lambda item: -item[1])
    ]
    kept = Entry("kept", ledger.kept, ledger.kept / total, ledger.tokens_kept or None)
    return LedgerView(
        stage.name, _UNITS.get(stage.verb, "records"), ledger.records_in, dropped, kept
    )


def _prepare_stats(stage: FinishedStage) -> _PrepareStats:
    path = stage.folder / "stats.json"
    stats = _read_stats(path)
    for mode, lengths in stats.lengths.items():
        _check_edges(path, mode, lengths)
    return stats


def _documents(stage: FinishedStage) -> DocumentsView:
    stats = _prepare_stats(stage)
    total = sum(stats.tokens_by_span.values()) or 1
    spans = [
        SpanTokens(kind, tokens, tokens / total)
        for kind, tokens in stats.tokens_by_span.items()
        if tokens
    ]
    histograms = [
        _trim(Histogram(mode, lengths.edges, lengths.counts))
        for mode, lengths in stats.lengths.items()
    ]
    return DocumentsView(stage.name, spans, [one for one in histograms if one.documents])


def _packs(stage: FinishedStage) -> list[PackRow]:
    packs = PacksInfo.load(stage.folder)
    return [
        PackRow(stage.name, packs.pack_size, epoch, count, fill)
        for epoch, (count, fill) in enumerate(zip(packs.num_packs, packs.fill, strict=True), 1)
    ]


def _read_stats(path: Path) -> _PrepareStats:
    return read_json(path, _PrepareStats, "run its stage again")


def _check_edges(path: Path, mode: str, lengths: _Lengths) -> None:
    ascending = all(low < high for low, high in pairwise(lengths.edges))
    if len(lengths.edges) != len(lengths.counts) + 1 or not ascending:
        raise InputError.at(
            path, None, f"lengths.{mode}: {len(lengths.counts)} bins need ascending edges, one more"
        )


def _trim(histogram: Histogram) -> Histogram:
    """Cut empty bins off both ends."""
    filled = [index for index, count in enumerate(histogram.counts) if count]
    if not filled:
        return Histogram(histogram.mode, histogram.edges[:1], [])
    first, last = filled[0], filled[-1]
    edges: Sequence[float] = histogram.edges[first : last + 2]
    return Histogram(histogram.mode, list(edges), histogram.counts[first : last + 1])
