"""Which packs form batch n: pure functions, no files.

The packs of all epochs stand in one long line. Each epoch is ordered by (seed, epoch) alone:
at random, but packs of every number of documents lie evenly. Batch n is the n-th run of that line:
of ``batch_size`` packs, or of as many packs as are needed to reach a number of supervised tokens. A
batch may begin in one epoch and end in the next and no pack is ever left out in between. Ranks,
layout and history play no part.

Two epochs of 5 packs, batches of 4::

    epoch 0     3 0 4 1 2     epoch 1     2 4 0 3 1
    batch 0     3 0 4 1       batch 1     2 | 2 4 0       left over: 3 1

In windows of w batches the packs are sorted by their modelled time and cut into w batches of packs
that take equally long; these stand in an order drawn from (seed, window). Then even a rank with one
pack per step hardly waits, but the documents of a batch are alike in length: another training, not
only a faster one.
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from longrun.formats.plans import spread_packs

_WINDOW_SEED = 1 << 32
"""Keeps the order of a window apart from the order of an epoch with the same number."""


class PackId(NamedTuple):
    """One pack: its plan's epoch (counted on, never wrapped) and its index in that plan."""

    epoch: int
    pack: int


class PackLine(ABC):
    """The packs of all epochs in one long line, cut into batches."""

    __slots__ = ()
    document_counts: tuple[npt.NDArray[np.int64], ...]
    """Documents of every pack of each plan; epochs beyond the last begin again with the first."""
    seed: int

    @abstractmethod
    def start(self, step: int) -> int:
        """Return the packs of the line before the step with index ``step``."""

    @abstractmethod
    def _steps_within(self, packs: int, most: float) -> int:
        """Return the batches that end within the first ``packs`` packs, at most ``most``."""

    def __getitem__(self, step: int) -> list[PackId]:
        """Return the packs of the step with index ``step``, from 0 without end."""
        return self._in_line(step, 1)

    def _in_line(self, step: int, num_steps: int) -> list[PackId]:
        """Return the packs of ``num_steps`` steps from ``step`` on, as they stand in line."""
        epoch, position = self.place(step)
        missing = self.start(step + num_steps) - self.start(step)
        packs: list[PackId] = []
        while len(packs) < missing:
            order = self.order(epoch)
            taken = order[position : position + missing - len(packs)]
            packs += [PackId(epoch, int(pack)) for pack in taken]
            epoch, position = epoch + 1, 0
        return packs

    @property
    def packs_per_epoch(self) -> tuple[int, ...]:
        """Packs of each plan."""
        return tuple(map(len, self.document_counts))

    def size(self, epoch: int) -> int:
        """Return the number of packs of ``epoch``."""
        return len(self.document_counts[epoch % len(self.document_counts)])

    @lru_cache(maxsize=4)  # noqa: B019  (a training has one line, for as long as it lasts)
    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the order in which the packs of ``epoch`` are used: a permutation, [packs]."""
        rng = np.random.default_rng((self.seed, epoch))
        order = spread_packs(self.document_counts[epoch % len(self.document_counts)], rng)
        order.flags.writeable = False
        return order

    def place(self, step: int) -> tuple[int, int]:
        """Return (epoch, packs of that epoch already used) before the step with index ``step``."""
        cycles, position = divmod(self.start(step), sum(self.packs_per_epoch))
        epoch = cycles * len(self.document_counts)
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

    def left_out(self, num_steps: int) -> list[PackId]:
        """Return the packs of the epochs begun that ``num_steps`` steps do not use, in line."""
        epoch, position = self.place(num_steps)
        order = self.order(epoch)[position:] if position else ()
        return [PackId(epoch, int(pack)) for pack in order]


@dataclass(frozen=True, slots=True, eq=False)
class Batches(PackLine):
    """Batches of equally many packs."""

    document_counts: tuple[npt.NDArray[np.int64], ...]
    batch_size: int
    """Packs of one optimizer step, over all ranks."""
    seed: int

    def start(self, step: int) -> int:
        """Return the packs of the line before the step with index ``step``."""
        return step * self.batch_size

    def _steps_within(self, packs: int, most: float) -> int:
        return int(min(packs // self.batch_size, most))


@dataclass(frozen=True, slots=True, eq=False)
class WindowedBatches(Batches):
    """Batches of equally many packs of equal cost, sorted window by window."""

    window: int
    """Batches whose packs are sorted together."""
    costs: tuple[npt.NDArray[np.float64], ...]
    """Modelled time of the packs of each plan."""

    def __getitem__(self, step: int) -> list[PackId]:
        """Return the packs of the step with index ``step``, from 0 without end."""
        window, place = divmod(step, self.window)
        packs = self._in_line(window * self.window, self.window)
        times = [self.costs[pack.epoch % len(self.costs)][pack.pack] for pack in packs]
        by_time = np.argsort(times, kind="stable")
        chosen = np.random.default_rng((self.seed, window, _WINDOW_SEED)).permutation(self.window)
        begin = int(chosen[place]) * self.batch_size
        return [packs[index] for index in by_time[begin : begin + self.batch_size]]

    def left_out(self, num_steps: int) -> list[PackId]:
        """Return the packs of the epochs begun that ``num_steps`` steps do not use.

        The last window may be cut short, and its batches hold packs from all over it.
        """
        begun = math.ceil(self.epochs_before(num_steps))
        whole = math.ceil(num_steps / self.window) * self.window
        rest = [pack for step in range(num_steps, whole) for pack in self[step]]
        rest += Batches.left_out(self, whole)
        return [pack for pack in rest if pack.epoch < begun]


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatches(PackLine):
    """Batches that are closed by the pack with which they reach ``batch_tokens``.

    Packs with 3, 1, 4, 1, 5 supervised tokens in the order of the line and ``batch_tokens`` 4
    make the batches ``3 1``, ``4`` and ``1 5``. Where a batch begins follows from the line alone;
    it is worked out from the first batch on, one epoch at a time, and kept.
    """

    document_counts: tuple[npt.NDArray[np.int64], ...]
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
        supervised = self.supervised_tokens[epoch % len(self.supervised_tokens)]
        sums = np.cumsum(supervised[self.order(epoch)])
        used = -waiting
        while True:
            last = int(np.searchsorted(sums, used + self.batch_tokens))
            if last == len(sums):
                break
            self._starts.append(first + last + 1)
            used = int(sums[last])
        self._open[:] = epoch + 1, first + len(sums), int(sums[-1]) - used
