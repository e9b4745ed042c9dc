"""Which packs form batch n: pure functions, no files.

The packs of all epochs stand in one long line. Each epoch is shuffled by (seed, epoch) alone and
batch n is the n-th run of ``batch_size`` packs of that line, so a batch may begin in one epoch and
end in the next and no pack is ever left out in between. Ranks, layout and history play no part.

Two epochs of 5 packs, batches of 4::

    epoch 0     3 0 4 1 2     epoch 1     2 4 0 3 1
    batch 0     3 0 4 1       batch 1     2 | 2 4 0       left over: 3 1

With ``window`` w above 1 the packs of w batches in a row are sorted by their modelled time and cut
into w batches of packs that take equally long; these stand in an order drawn from (seed, window).
Then even a rank with one pack per step hardly waits, but the documents of a batch are alike in
length: another training, not only a faster one.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_WINDOW_SEED = 1 << 32
"""Keeps the order of a window apart from the order of an epoch with the same number."""


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
    window: int = 1
    """Batches whose packs are sorted by cost together; 1: none are."""
    costs: tuple[npt.NDArray[np.float64], ...] = ()
    """Modelled time of the packs of each plan; needed when ``window`` is above 1."""

    def __getitem__(self, step: int) -> list[PackId]:
        """Return the packs of the step with index ``step``, from 0 without end."""
        if self.window == 1:
            return self._line(step, 1)
        window, place = divmod(step, self.window)
        packs = self._line(window * self.window, self.window)
        times = [self.costs[pack.epoch % len(self.costs)][pack.pack] for pack in packs]
        by_time = np.argsort(times, kind="stable")
        chosen = np.random.default_rng((self.seed, window, _WINDOW_SEED)).permutation(self.window)
        begin = int(chosen[place]) * self.batch_size
        return [packs[index] for index in by_time[begin : begin + self.batch_size]]

    def _line(self, step: int, num_batches: int) -> list[PackId]:
        """Return the packs of ``num_batches`` batches from ``step`` on, as they stand in line."""
        epoch, position = self.place(step)
        packs: list[PackId] = []
        num_packs = num_batches * self.batch_size
        while len(packs) < num_packs:
            order = epoch_order(self.size(epoch), self.seed, epoch)
            taken = order[position : position + num_packs - len(packs)]
            packs += [PackId(epoch, int(pack)) for pack in taken]
            epoch, position = epoch + 1, 0
        return packs

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
