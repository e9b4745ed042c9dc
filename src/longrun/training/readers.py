"""What a pack of documents asks the model to learn: tokens and the weight of each as a target.

Weights follow the kind of span and are a setting of the training, so another mask needs no other
tokens. It reads packs; it never builds a tensor.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from longrun.checkpoint.model_folder import read_arch
from longrun.config.training import LossWeights, TrainConfig
from longrun.errors import InputError
from longrun.formats.documents import Document, DocumentSet, Origin
from longrun.formats.plans import PackPlan, PackSet
from longrun.formats.text.spans import SpanKind
from longrun.nn.costs import ModelShape, attention_cost
from longrun.nn.weighted_document import WeightedDocument
from longrun.training.balance import Balance, Deal, Ranks, deal_batch, pack_cost, pack_costs
from longrun.training.batches import Batches, PackId, PackLine, TokenBatches, WindowedBatches


def weight_table(weights: LossWeights) -> npt.NDArray[np.float32]:
    """Return the weight of every span kind, [7]: the prompt never counts, the stop token always."""
    table = np.zeros(len(SpanKind), np.float32)
    table[SpanKind.STOP] = 1.0
    for name, weight in weights.model_dump().items():
        table[SpanKind[name.upper()]] = weight
    return table


def weigh(document: Document, table: npt.NDArray[np.float32]) -> WeightedDocument:
    """Give every token of ``document`` the weight of its span."""
    weights = np.repeat(table[document.span_kinds], document.span_lengths)
    return WeightedDocument(document.tokens, weights)


def build_batches(config: TrainConfig, packs: PackSet) -> PackLine:
    """Return the batches of a training, cut by packs (also of like cost) or by supervised tokens.

    Raises:
        InputError: batches are cut by supervised tokens and there are none.
    """
    plans = [packs.plan(epoch) for epoch in range(packs.num_epochs)]
    sizes = tuple(plan.document_counts for plan in plans)
    if config.balance_window > 1 and config.global_batch_size is not None:
        cost = attention_cost(ModelShape.of(read_arch(config.model, config.context)))
        lengths = packs.training.lengths
        costs = tuple(pack_costs(lengths[plan.documents], plan.starts, cost) for plan in plans)
        line = sizes, config.global_batch_size, config.seed
        return WindowedBatches(*line, config.balance_window, costs)
    if config.global_batch_size is not None:
        return Batches(sizes, config.global_batch_size, config.seed)
    if config.global_batch_tokens is None:
        raise ValueError("neither a batch size in packs nor one in tokens")
    targets = packs.training.target_counts(weight_table(config.loss_weights) > 0)
    supervised = tuple(_sum_per_pack(plan, targets) for plan in plans)
    if not any(tokens.any() for tokens in supervised):
        raise InputError.at(config.packs, None, "no token is supervised; see train.loss_weights")
    return TokenBatches(sizes, supervised, config.global_batch_tokens, config.seed)


def _sum_per_pack(plan: PackPlan, of_document: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the sums over the documents of every pack, [P]."""
    sums = np.concatenate([[0], np.cumsum(of_document[plan.documents], dtype=np.int64)])
    totals: npt.NDArray[np.int64] = np.diff(sums[plan.starts])
    return totals


class PackReader:
    """The training packs of all epochs, with loss weights."""

    def __init__(self, packs: PackSet, weights: LossWeights, attention_cost: float) -> None:
        self._documents = packs.training
        self._plans = [packs.plan(epoch) for epoch in range(packs.num_epochs)]
        self._table = weight_table(weights)
        self._attention_cost = attention_cost
        self._pack_size = packs.pack_size

    def read(self, pack: PackId) -> list[WeightedDocument]:
        """Return the documents of ``pack``, in the order of its plan."""
        return self.read_documents(self._indices(pack).tolist())

    def deal(self, batch: Sequence[PackId], ranks: Ranks, balance: Balance) -> Deal:
        """Deal the documents of ``batch`` to ``ranks``; they keep their numbers in the data."""
        numbers = [self._indices(pack) for pack in batch]
        lengths = [self._documents.lengths[documents] for documents in numbers]
        dealt = deal_batch(lengths, self._attention_cost, ranks, balance, self._pack_size)
        return dealt.renumbered(np.concatenate(numbers).tolist())

    def read_documents(self, numbers: Iterable[int]) -> list[WeightedDocument]:
        """Return documents by their numbers in the data."""
        return [weigh(self._documents[number], self._table) for number in numbers]

    def lengths(self, packs: Iterable[PackId]) -> list[int]:
        """Return the tokens of every document of ``packs``."""
        indices = np.concatenate([self._indices(pack) for pack in packs])
        return [int(length) for length in self._documents.lengths[indices]]

    def origins(self, numbers: Iterable[int]) -> list[Origin]:
        """Say where documents came from, by their numbers in the data."""
        return [self._documents.origin(number) for number in numbers]

    def _indices(self, pack: PackId) -> npt.NDArray[np.int64]:
        return self._plans[pack.epoch % len(self._plans)][pack.pack]


class HeldOutReader:
    """The validation packs, each cut by mode: a document's loss does not depend on its pack."""

    def __init__(self, packs: PackSet, weights: LossWeights, attention_cost: float) -> None:
        self._documents: DocumentSet = packs.validation
        self._plan: PackPlan = packs.validation_plan
        self._table = weight_table(weights)
        self._attention_cost = attention_cost
        self.parts = [
            (pack, mode)
            for pack in range(len(self._plan))
            for mode in sorted(set(self._documents.mode_indices[self._plan[pack]].tolist()))
        ]
        """(pack, mode index) of every part that has documents."""

    def mode(self, part: int) -> str:
        """Return the mode of the documents of ``part``."""
        return str(self._documents.modes[self.parts[part][1]])

    def read(self, part: int) -> list[WeightedDocument]:
        """Return the documents of ``part``."""
        return [weigh(self._documents[int(index)], self._table) for index in self._indices(part)]

    def cost(self, part: int) -> float:
        """Return the modelled time of ``part``, in tokens."""
        return pack_cost(self._documents.lengths[self._indices(part)], self._attention_cost)

    def _indices(self, part: int) -> npt.NDArray[np.int64]:
        pack, mode = self.parts[part]
        indices = self._plan[pack]
        chosen: npt.NDArray[np.int64] = indices[self._documents.mode_indices[indices] == mode]
        return chosen
