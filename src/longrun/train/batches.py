"""Which packs form batch n, and which rank takes which of them: pure functions, no files.

The packs of all epochs stand in one long line. Each epoch is shuffled by (seed, epoch) alone and
batch n is the n-th run of ``batch_size`` packs of that line, so a batch may begin in one epoch and
end in the next and no pack is ever left out in between. Ranks, layout and history play no part.

Two epochs of 5 packs, batches of 4::

    epoch 0     3 0 4 1 2     epoch 1     2 4 0 3 1
    batch 0     3 0 4 1       batch 1     2 | 2 4 0       left over: 3 1

Inside a batch the gradient does not depend on the grouping, so packs are dealt to ranks by cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class PackId(NamedTuple):
    """One pack: its plan's epoch (counted on, never wrapped) and its index in that plan."""

    epoch: int
    pack: int


@dataclass(frozen=True, slots=True)
class Batches:
    """The batches of one training."""

    packs_per_epoch: tuple[int, ...]
    """Packs of each plan; epochs beyond the last plan begin again with the first."""
    batch_size: int
    """Packs of one optimizer step, over all ranks."""
    seed: int

    def __getitem__(self, step: int) -> list[PackId]:
        """Return the packs of the step with index ``step``, from 0 without end."""
        epoch, position = self.place(step)
        batch: list[PackId] = []
        while len(batch) < self.batch_size:
            order = epoch_order(self.size(epoch), self.seed, epoch)
            taken = order[position : position + self.batch_size - len(batch)]
            batch += [PackId(epoch, int(pack)) for pack in taken]
            epoch, position = epoch + 1, 0
        return batch

    def size(self, epoch: int) -> int:
        """Return the number of packs of ``epoch``."""
        return self.packs_per_epoch[epoch % len(self.packs_per_epoch)]

    def place(self, step: int) -> tuple[int, int]:
        """Return (epoch, packs of that epoch already used) before the step with index ``step``."""
        cycle = sum(self.packs_per_epoch)
        cycles, position = divmod(step * self.batch_size, cycle)
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
        steps = packs // self.batch_size
        return steps if max_steps is None else min(steps, max_steps)


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
