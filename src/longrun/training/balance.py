"""Which rank computes which documents of a batch: pure functions of lengths, never of files.

The gradient of a batch does not depend on how its documents are grouped, so they are dealt to the
ranks such that all finish together: a document of n tokens takes ``n + attention_cost * n ** 2``
(see ``longrun.nn.costs``) and the slowest rank decides how long a step takes.

``packs``      whole packs: longest processing time first, then pairs are exchanged
``documents``  single documents in the same way, then each rank's are put into micro-steps of at
               most ``pack_size`` tokens: one more than with packs, because packs are full

Trace, attention_cost 0.1, 2 ranks, packs of 10 tokens: ``[10] [5 5] [4 6] [2 8]``. Their documents
cost 20, 7.5 7.5, 5.6 9.6 and 2.4 14.4, so an even deal would take 33.5::

    packs       20 + 15            16.8 + 15.2                the slowest takes 35
    documents   20 + 7.5 + 5.6     14.4 + 9.6 + 7.5 + 2.4     the slowest takes 33.9

Ranks that gather one copy of the weights layer by layer (sharding ``full``) wait for each other in
every layer: what they compute at the same time should cost the same. They form groups. Packs
sorted by cost are cut into rows, one pack for each rank of a group; documents sorted by length are
cut into slices likewise; and rows or slices are dealt to the groups. With groups of 2, documents
``9 8 5 4`` are the slices ``9 8`` and ``5 4``: one rank of the group computes 9 and 4, the other 8
and 5.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import lcm
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from longrun.parallel.layouts import Layout

Lengths = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.float64]
Hands = list[list[int]]
"""The items of every rank."""
Groups = list[tuple[int, ...]]
"""Micro-steps of one rank: documents by their place in the batch."""
Balance = Literal["auto", "packs", "documents"]

WORTH_DOCUMENTS = 0.003
"""``auto`` deals documents where that is modelled to save more than this share of a step: they
need a micro-step more."""
_EVEN_ENOUGH = 2e-3
"""Exchanging stops when the slowest is this close to the mean: trying on costs milliseconds."""
_MOST_EXCHANGES = 400
_PARTNERS = 3


@dataclass(frozen=True, slots=True)
class Ranks:
    """The ranks that take different documents, as the dealing sees them."""

    size: int
    """Ranks of the data axis: tensor and context peers count as one."""
    waiting: int = 1
    """Ranks of a group: neighbours that wait for each other in every micro-step. Divides ``size``;
    1: none does."""

    @classmethod
    def of(cls, layout: Layout) -> "Ranks":
        """Take the data ranks of ``layout``; only sharding ``full`` makes them wait.

        A group of ranks that share a copy may begin or end within the context peers of a data rank,
        which then ties it to the next group.
        """
        together = lcm(layout.shards, layout.context) // layout.context
        waiting = together if layout.sharding == "full" else 1
        return cls(layout.data, waiting)


@dataclass(frozen=True, slots=True)
class Deal:
    """The micro-steps of every rank, in order."""

    hands: tuple[tuple[tuple[int, ...], ...], ...]
    """``hands[rank][i]``: the numbers of the documents of a rank's i-th micro-step."""
    costs: tuple[tuple[float, ...], ...]
    """The modelled time of each micro-step, in tokens."""

    @property
    def num_micro_steps(self) -> int:
        """Micro-steps over all ranks, without fillers."""
        return sum(map(len, self.hands))

    @property
    def most_micro_steps(self) -> int:
        """Micro-steps of the rank that has most."""
        return max(map(len, self.hands))

    def first_slot(self, rank: int) -> int:
        """Return the number of the first micro-step of ``rank``, counted over all ranks."""
        return sum(map(len, self.hands[:rank]))

    def documents(self, slots: Iterable[int]) -> list[int]:
        """Return the documents of the micro-steps with the numbers ``slots``."""
        steps = [documents for hand in self.hands for documents in hand]
        return [document for slot in slots for document in steps[slot]]

    def renumbered(self, numbers: Sequence[int]) -> "Deal":
        """Return the same deal with ``numbers[i]`` in the place of document i."""
        hands = tuple(
            tuple(tuple(numbers[document] for document in step) for step in hand)
            for hand in self.hands
        )
        return Deal(hands, self.costs)

    def imbalance(self, waiting: int = 1) -> float:
        """Return the modelled time of the step over that of an even deal; 1: nobody waits.

        ``waiting`` neighbours wait for each other in every micro-step, everybody at the end.
        """
        times = np.zeros((len(self.costs), self.most_micro_steps))
        for rank, costs in enumerate(self.costs):
            times[rank, : len(costs)] = costs
        slowest = times.reshape(-1, waiting, times.shape[1]).max(1).sum(1).max()
        return float(slowest / (times.sum() / len(times)))


def document_costs(lengths: Lengths, attention_cost: float) -> Floats:
    """Model the time of each document in tokens: ``n + attention_cost * n ** 2``, [D]."""
    tokens = lengths.astype(np.float64)
    return tokens + attention_cost * tokens**2


def pack_cost(lengths: Lengths, attention_cost: float) -> float:
    """Model the time of a pack of documents, in tokens."""
    return float(document_costs(lengths, attention_cost).sum())


def pack_costs(lengths: Lengths, starts: npt.NDArray[np.int64], attention_cost: float) -> Floats:
    """Model the time of P packs in tokens, [P]; none is empty.

    ``starts`` is [P + 1]: pack p holds the documents of ``lengths[starts[p] : starts[p + 1]]``.
    """
    if len(starts) == 1:
        return np.zeros(0)
    sums: Floats = np.add.reduceat(document_costs(lengths, attention_cost), starts[:-1])
    return sums


def deal_batch(
    packs: Sequence[Lengths], attention_cost: float, ranks: Ranks, balance: Balance, pack_size: int
) -> Deal:
    """Deal the documents of a batch, given as the lengths of each pack's documents.

    Documents are numbered through the packs in order. ``pack_size`` bounds the tokens of a
    micro-step; no pack is longer.
    """
    lengths = np.concatenate(packs)
    costs = document_costs(lengths, attention_cost)
    if balance == "documents":
        return _deal_of(_deal_documents(lengths, costs, ranks, pack_size), costs)
    whole = _deal_of(_deal_packs(packs, costs, ranks), costs)
    # One pack per rank leaves nothing to exchange but the time of the longest document.
    if balance == "packs" or ranks.size == 1 or len(packs) <= ranks.size:
        return whole
    single = _deal_of(_deal_documents(lengths, costs, ranks, pack_size), costs)
    saved = 1 - single.imbalance(ranks.waiting) / whole.imbalance(ranks.waiting)
    return single if saved > WORTH_DOCUMENTS else whole


def _deal_of(groups: list[Groups], costs: Floats) -> Deal:
    times = [tuple(float(costs[list(step)].sum()) for step in group) for group in groups]
    return Deal(tuple(map(tuple, groups)), tuple(times))


def deal(costs: Sequence[float], num_ranks: int, most: int | None = None) -> Hands:
    """Deal items to ranks so that the ranks finish together; ranks may get different counts.

    Longest processing time first (Graham 1969: at most 4/3 of the best possible finish): the
    dearest item that is left goes to the rank with the least work. Ties go to the smaller index.
    No rank gets more than ``most`` items; None: no bound.

    >>> deal([5, 1, 4, 2], 2)
    [[0, 1], [2, 3]]
    """
    hands: Hands = [[] for _ in range(num_ranks)]
    loads = [(0.0, rank) for rank in range(num_ranks)]
    heapify(loads)
    for item in sorted(range(len(costs)), key=lambda index: (-costs[index], index)):
        load, rank = heappop(loads)
        hands[rank].append(item)
        if most is None or len(hands[rank]) < most:
            heappush(loads, (load + costs[item], rank))
    return [sorted(hand) for hand in hands]


def exchange(costs: Floats, hands: Hands, most: int | None = None) -> Hands:
    """Lower the load of the slowest rank while moving an item or exchanging a pair does so.

    The partner is one of the fastest ranks; no rank gets more than ``most`` items. Returns new
    hands.

    >>> exchange(np.array([5.0, 4.0, 4.0, 3.0]), [[0, 1], [2, 3]])
    [[1, 2], [0, 3]]
    """
    hands = [list(hand) for hand in hands]
    loads = np.array([costs[hand].sum() for hand in hands])
    enough = loads.mean() * (1 + _EVEN_ENOUGH)
    for _ in range(_MOST_EXCHANGES):
        slow = int(loads.argmax())
        if loads[slow] <= enough:
            break
        partners = np.argsort(loads, kind="stable")[:_PARTNERS].tolist()
        found = [
            _best_exchange(costs, hands[slow], hands[fast], float(loads[slow] - loads[fast]), most)
            for fast in partners
        ]
        slowest, fast, given, taken = min(
            (float(loads[fast]) + rest, fast, given, taken)
            for fast, (rest, given, taken) in zip(partners, found, strict=True)
        )
        if not slowest < loads[slow]:
            break
        hands[slow].remove(given)
        hands[fast].append(given)
        if taken >= 0:
            hands[fast].remove(taken)
            hands[slow].append(taken)
        for rank in (slow, fast):
            loads[rank] = costs[hands[rank]].sum()
    return [sorted(hand) for hand in hands]


def _best_exchange(
    costs: Floats, slow: list[int], fast: list[int], gap: float, most: int | None
) -> tuple[float, int, int]:
    """Return (what the slower of the two then has above ``fast`` now, item given, item taken).

    Taken -1: nothing. The first number is ``gap`` when no exchange helps.
    """
    may_move = most is None or len(fast) < most
    back = np.array([*fast, -1] if may_move else fast)
    lighter = costs[slow][:, None] - np.where(back < 0, 0.0, costs[back])
    rest = np.maximum(gap - lighter, lighter)
    given, taken = np.unravel_index(int(rest.argmin()), rest.shape)
    return min(float(rest[given, taken]), gap), slow[given], int(back[taken])


def _deal_packs(packs: Sequence[Lengths], costs: Floats, ranks: Ranks) -> list[Groups]:
    """Return the micro-steps of every rank: whole packs, those of one row at the same time."""
    ends = np.cumsum([len(pack) for pack in packs]).tolist()
    members = [tuple(range(end - len(pack), end)) for end, pack in zip(ends, packs, strict=True)]
    of_packs = np.array([costs[list(documents)].sum() for documents in members])
    order = np.argsort(-of_packs, kind="stable").tolist()
    rows = _cut(order, ranks.waiting)
    of_rows = np.array([of_packs[row[0]] for row in rows])
    num_groups = ranks.size // ranks.waiting
    # Ranks that wait pay for a micro-step without work too: no group gets a row more than needed.
    most = None if ranks.waiting == 1 else -(-len(rows) // num_groups)
    dealt = exchange(of_rows, deal(of_rows.tolist(), num_groups, most), most)
    return [
        [members[rows[row][place]] for row in hand if place < len(rows[row])]
        for hand in dealt
        for place in range(ranks.waiting)
    ]


def _deal_documents(lengths: Lengths, costs: Floats, ranks: Ranks, pack_size: int) -> list[Groups]:
    """Return the micro-steps of every rank: single documents, those of one slice side by side."""
    slices = _cut(np.argsort(-lengths, kind="stable").tolist(), ranks.waiting)
    of_slices = np.array([costs[members[0]] for members in slices])
    longest = [int(lengths[members[0]]) for members in slices]
    groups: list[Groups] = []
    num_groups = ranks.size // ranks.waiting
    for hand in exchange(of_slices, deal(of_slices.tolist(), num_groups)):
        spread = [
            _spread([slices[index] for index in together], costs, ranks.waiting)
            for together in _fill(longest, hand, pack_size)
        ]
        groups += [
            [hands[place] for hands in spread if hands[place]] for place in range(ranks.waiting)
        ]
    return groups


def _cut(items: list[int], size: int) -> Hands:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _spread(slices: Hands, costs: Floats, num_ranks: int) -> Groups:
    """Give each rank one document of every slice, the longest to the rank with the least work."""
    hands: Hands = [[] for _ in range(num_ranks)]
    loads = [0.0] * num_ranks
    for members in slices:
        by_load = sorted(range(num_ranks), key=lambda rank: (loads[rank], rank))
        for rank, document in zip(by_load, members, strict=False):
            hands[rank].append(document)
            loads[rank] += float(costs[document])
    return [tuple(sorted(hand)) for hand in hands]


def _fill(lengths: Sequence[int], items: list[int], pack_size: int) -> Hands:
    """Group ``items`` into at most ``pack_size`` tokens: the longest first, where it still fits."""
    groups: Hands = []
    rooms: list[int] = []
    for item in sorted(items, key=lambda index: (-lengths[index], index)):
        place = next((i for i, room in enumerate(rooms) if room >= lengths[item]), len(rooms))
        if place == len(rooms):
            groups.append([])
            rooms.append(pack_size)
        groups[place].append(item)
        rooms[place] -= lengths[item]
    return groups
