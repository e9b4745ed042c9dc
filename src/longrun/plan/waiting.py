"""How long ranks wait for the slowest: real dealing of some batches, priced by modelled seconds."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from longrun.plan.lengths import Workload
from longrun.plan.time import UnitCosts
from longrun.training.balance import Balance, Ranks, deal_batch

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Dealt:
    """Some batches, dealt to R ranks in at most M micro-steps."""

    tokens: list[Floats]
    """[R, M] of each batch: tokens of a micro-step."""
    squares: list[Floats]
    """[R, M] of each batch: sum of the squared lengths of its documents."""
    waiting: int
    """Neighbours that wait for each other in every micro-step."""

    @property
    def micro_steps(self) -> int:
        """The most micro-steps of any batch."""
        return max(int(tokens.shape[1]) for tokens in self.tokens)

    def slowest_seconds(self, unit: UnitCosts) -> float:
        """Return the seconds of the slowest rank, the mean over the batches."""
        batches = zip(self.tokens, self.squares, strict=True)
        return float(np.mean([self._slowest(unit, *batch) for batch in batches]))

    def _slowest(self, unit: UnitCosts, tokens: Floats, squares: Floats) -> float:
        times = tokens * unit.per_token + squares * unit.per_square
        return float(times.reshape(-1, self.waiting, times.shape[1]).max(1).sum(1).max())


class Dealing:
    """The batches of a workload dealt to ranks, once for each number of them."""

    def __init__(self, workload: Workload, share: float, balance: Balance) -> None:
        self._workload = workload
        self._share = share
        self._balance = balance
        self._known: dict[Ranks, Dealt] = {}

    def deal(self, ranks: Ranks) -> Dealt:
        """Return the batches dealt to ``ranks`` with the dealing of ``train``."""
        if ranks not in self._known:
            batches = [self._one_batch(packs, ranks) for packs in self._workload.batches]
            tokens, squares = zip(*batches, strict=True)
            self._known[ranks] = Dealt(list(tokens), list(squares), ranks.waiting)
        return self._known[ranks]

    def _one_batch(self, packs: list[npt.NDArray[np.int32]], ranks: Ranks) -> tuple[Floats, Floats]:
        size = self._workload.pack_size
        dealt = deal_batch(packs, self._share, ranks, self._balance, size)
        lengths = np.concatenate(packs).astype(np.float64)
        tokens = np.zeros((ranks.size, dealt.most_micro_steps))
        squares = np.zeros_like(tokens)
        for rank, hand in enumerate(dealt.hands):
            for index, documents in enumerate(hand):
                own = lengths[list(documents)]
                tokens[rank, index] = own.sum()
                squares[rank, index] = (own**2).sum()
        return tokens, squares
