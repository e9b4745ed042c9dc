"""Which packs form batch n, and which rank takes which of them: pure functions, no files.

The packs of all epochs stand in one long line. Each epoch is shuffled by (seed, epoch) alone and
batch n is the n-th run of that line: of ``batch_size`` packs, or of as many packs as are needed to
reach a number of supervised tokens. A batch may begin in one epoch and end in the next and no pack
is ever left out in between. Ranks, layout and history play no part.

Two epochs of 5 packs, batches of 4::

    epoch 0     3 0 4 1 2     epoch 1     2 4 0 3 1
    batch 0     3 0 4 1       batch 1     2 | 2 4 0       left over: 3 1

Inside a batch the gradient does not depend on the grouping, so packs are dealt to ranks by cost.
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class PackId(NamedTuple):
    """One pack: its plan's epoch (counted on, never wrapped) and its index in that plan."""

    epoch: int
    pack: int


class PackLine(ABC):
    """The packs of all epochs in one long line, cut into batches."""

    __slots__ = ()
    packs_per_epoch: tuple[int, ...]
    """Packs of each plan; epochs beyond the last plan begin again with the first."""
    seed: int

    @abstractmethod
    def start(self, step: int) -> int:
        """Return the packs of the line before the step with index ``step``."""

    @abstractmethod
    def _steps_within(self, packs: int, most: float) -> int:
        """Return the batches that end within the first ``packs`` packs, at most ``most``."""

    def __getitem__(self, step: int) -> list[PackId]:
        """Return the packs of the step with index ``step``, from 0 without end."""
        epoch, position = self.place(step)
        missing = self.start(step + 1) - self.start(step)
        batch: list[PackId] = []
        while len(batch) < missing:
            order = epoch_order(self.size(epoch), self.seed, epoch)
            taken = order[position : position + missing - len(batch)]
            batch += [PackId(epoch, int(pack)) for pack in taken]
            epoch, position = epoch + 1, 0
        return batch

    def size(self, epoch: int) -> int:
        """Return the number of packs of ``epoch``."""
        return self.packs_per_epoch[epoch % len(self.packs_per_epoch)]

    def place(self, step: int) -> tuple[int, int]:
        """Return (epoch, packs of that epoch already used) before the step with index ``step``."""
        cycles, position = divmod(self.start(step), sum(self.packs_per_epoch))
        epoch = cycles * len(self.packs_per_epoch)
        while position >= self.size(epoch):
            position -= self.size(epoch)
            epoch += 1
        return epoch, position

    def epochs_before(self, step: int) -> float:
        """Return the passes over the packs finished before the step with index ``step``."""
        epoch, position = self.place(step)
        return epoch + position / self.size(epoch)

    def num_steps(self, max_epochs: float, max_steps: int | None) -> int:
        """Return the optimizer steps of a training; the packs of a last short batch are left out.

        ``max_epochs`` 1.5 ends in the middle of the second epoch.
        """
        whole = int(max_epochs)
        packs = sum(self.size(epoch) for epoch in range(whole))
        packs += int((max_epochs - whole) * self.size(whole))
        return self._steps_within(packs, math.inf if max_steps is None else max_steps)


@dataclass(frozen=True, slots=True)
class Batches(PackLine):
    """Batches of equally many packs."""

    packs_per_epoch: tuple[int, ...]
    batch_size: int
    """Packs of one optimizer step, over all ranks."""
    seed: int

    def start(self, step: int) -> int:
        """Return the packs of the line before the step with index ``step``."""
        return step * self.batch_size

    def _steps_within(self, packs: int, most: float) -> int:
        return int(min(packs // self.batch_size, most))


@dataclass(frozen=True, slots=True)
class TokenBatches(PackLine):
    """Batches that are closed by the pack with which they reach ``batch_tokens``.

    Packs with 3, 1, 4, 1, 5 supervised tokens in the order of the line and ``batch_tokens`` 4
    make the batches ``3 1``, ``4`` and ``1 5``. Where a batch begins follows from the line alone;
    it is worked out from the first batch on, one epoch at a time, and kept.
    """

    packs_per_epoch: tuple[int, ...]
    supervised_tokens: tuple[npt.NDArray[np.int64], ...]
    """Of every pack of each plan; at least one of them is not 0."""
    batch_tokens: int
    """Supervised tokens of one optimizer step, over all ranks."""
    seed: int
    _starts: list[int] = field(default_factory=lambda: [0], init=False, repr=False)
    _open: list[int] = field(default_factory=lambda: [0, 0, 0], init=False, repr=False)
    """Epochs worked out, their packs, and the tokens of the batch that was not closed in them."""

    def start(self, step: int) -> int:
        """Return the packs of the line before the step with index ``step``."""
        while len(self._starts) <= step:
            self._work_out_an_epoch()
        return self._starts[step]

    def _steps_within(self, packs: int, most: float) -> int:
        while self._open[1] < packs and len(self._starts) <= most:
            self._work_out_an_epoch()
        return int(min(bisect_right(self._starts, packs) - 1, most))

    def _work_out_an_epoch(self) -> None:
        epoch, first, waiting = self._open
        order = epoch_order(self.size(epoch), self.seed, epoch)
        sums = np.cumsum(self.supervised_tokens[epoch % len(self.supervised_tokens)][order])
        used = -waiting
        while True:
            last = int(np.searchsorted(sums, used + self.batch_tokens))
            if last == len(sums):
                break
            self._starts.append(first + last + 1)
            used = int(sums[last])
        self._open[:] = epoch + 1, first + len(sums), int(sums[-1]) - used


@lru_cache(maxsize=4)
def epoch_order(num_packs: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the order in which the packs of ``epoch`` are used: a permutation, [num_packs]."""
    order = np.random.default_rng((seed, epoch)).permutation(num_packs)
    order.flags.writeable = False
    return order


def pack_cost(lengths: npt.NDArray[np.integer[Any]], attention_share: float) -> float:
    """Model the time of a pack in tokens: ``sum(n + attention_share * n ** 2)`` over documents.

    ``attention_share``: the work of attending to one key over that of a token's matrices.
    """
    tokens = lengths.astype(np.float64)
    return float((tokens + attention_share * tokens**2).sum())


def deal(costs: Sequence[float], num_ranks: int) -> list[list[int]]:
    """Deal items to ranks so that the ranks finish together; ranks may get different counts.

    Longest processing time first (Graham 1969: at most 4/3 of the best possible finish): the
    dearest item that is left goes to the rank with the least work. Ties go to the smaller index.

    >>> deal([5, 1, 4, 2], 2)
    [[0, 1], [2, 3]]
    """
    loads = [0.0] * num_ranks
    hands: list[list[int]] = [[] for _ in range(num_ranks)]
    for item in sorted(range(len(costs)), key=lambda index: (-costs[index], index)):
        rank = min(range(num_ranks), key=lambda index: (loads[index], index))
        loads[rank] += costs[item]
        hands[rank].append(item)
    return [sorted(hand) for hand in hands]
