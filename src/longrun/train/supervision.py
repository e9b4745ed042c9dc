"""What a pack of documents asks the model to learn: tokens and the weight of each as a target.

Weights follow the kind of span and are a setting of the training, so another mask needs no other
tokens. It reads packs; it never builds a tensor.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from longrun.config.stages import LossWeights
from longrun.formats.documents import Document, DocumentSet, Origin
from longrun.formats.plans import PackPlan, PackSet
from longrun.formats.spans import SpanKind
from longrun.train.balance import (
    Balance,
    Deal,
    Floats,
    Ranks,
    deal_batch,
    pack_cost,
    pack_costs,
)
from longrun.train.batches import PackId

Weighted = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]
"""Tokens of a document and their weights as targets; both [n]."""


def weight_table(weights: LossWeights) -> npt.NDArray[np.float32]:
    """Return the weight of every span kind, [7]: the prompt never counts, the stop token always."""
    table = np.zeros(len(SpanKind), np.float32)
    table[SpanKind.STOP] = 1.0
    for name, weight in weights.model_dump().items():
        table[SpanKind[name.upper()]] = weight
    return table


def weigh(document: Document, table: npt.NDArray[np.float32]) -> Weighted:
    """Give every token of ``document`` the weight of its span."""
    return document.tokens, np.repeat(table[document.span_kinds], document.span_lengths)


class PackReader:
    """The training packs of all epochs, with loss weights."""

    def __init__(self, packs: PackSet, weights: LossWeights, share: float) -> None:
        self._documents = packs.training
        self._plans = [packs.plan(epoch) for epoch in range(packs.num_epochs)]
        self._table = weight_table(weights)
        self._share = share
        self._pack_size = packs.pack_size

    @property
    def packs_per_epoch(self) -> tuple[int, ...]:
        """Number of packs of each plan."""
        return tuple(len(plan) for plan in self._plans)

    def read(self, pack: PackId) -> list[Weighted]:
        """Return the documents of ``pack``, in the order of its plan."""
        return self.read_documents(self._indices(pack))

    def deal(self, batch: Sequence[PackId], ranks: Ranks, balance: Balance) -> Deal:
        """Deal the documents of ``batch`` to ``ranks``; they keep their numbers in the data."""
        numbers = [self._indices(pack) for pack in batch]
        lengths = [self._documents.lengths[documents] for documents in numbers]
        dealt = deal_batch(lengths, self._share, ranks, balance, self._pack_size)
        return dealt.renumbered(np.concatenate(numbers).tolist())

    def costs(self) -> list[Floats]:
        """Return the modelled time of every pack of each plan, in tokens."""
        return [
            pack_costs(self._documents.lengths[plan.documents], plan.starts, self._share)
            for plan in self._plans
        ]

    def read_documents(self, documents: Iterable[int]) -> list[Weighted]:
        """Return ``documents``, named by their numbers in the data."""
        return [weigh(self._documents[int(index)], self._table) for index in documents]

    def origins(self, documents: Iterable[int]) -> list[Origin]:
        """Say where ``documents``, named by their numbers in the data, came from."""
        return [self._documents.origin(int(index)) for index in documents]

    def _indices(self, pack: PackId) -> npt.NDArray[np.int64]:
        return self._plans[pack.epoch % len(self._plans)][pack.pack]


class HeldOutReader:
    """The validation packs, each cut by mode: a document's loss does not depend on its pack."""

    def __init__(self, packs: PackSet, weights: LossWeights, share: float) -> None:
        self._documents: DocumentSet = packs.validation
        self._plan: PackPlan = packs.validation_plan
        self._table = weight_table(weights)
        self._share = share
        self.parts = [
            (pack, mode)
            for pack in range(len(self._plan))
            for mode in sorted(set(self._documents.mode_indices[self._plan[pack]].tolist()))
        ]
        """(pack, mode index) of every part that has documents."""

    def mode(self, part: int) -> str:
        """Return the mode of the documents of ``part``."""
        return str(self._documents.modes[self.parts[part][1]])

    def read(self, part: int) -> list[Weighted]:
        """Return the documents of ``part``."""
        return [weigh(self._documents[int(index)], self._table) for index in self._indices(part)]

    def cost(self, part: int) -> float:
        """Return the modelled time of ``part``, in tokens."""
        return pack_cost(self._documents.lengths[self._indices(part)], self._share)

    def _indices(self, part: int) -> npt.NDArray[np.int64]:
        pack, mode = self.parts[part]
        indices = self._plan[pack]
        chosen: npt.NDArray[np.int64] = indices[self._documents.mode_indices[indices] == mode]
        return chosen
