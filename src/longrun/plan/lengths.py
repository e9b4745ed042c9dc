"""The lengths that a plan is made for: real packs, or packs of drawn documents."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from longrun.data.packs.packing import pack
from longrun.errors import InputError
from longrun.formats.plans import PackSet
from longrun.plan.settings import PlanSettings
from longrun.training.batches import Batches

Lengths = npt.NDArray[np.int32]
NUM_BATCHES = 2
"""Batches that are looked at: each is hundreds of packs, and more change the second digit."""
_SPARE = 1.02
"""Tokens drawn over those needed: packs are never quite full."""


@dataclass(frozen=True)
class Workload:
    """What is to be trained on."""

    batches: list[list[Lengths]]
    """Some batches: the document lengths of each pack."""
    pack_size: int
    num_steps: int | None
    """Optimizer steps of the training; None: nobody said how much data there is."""
    source: str
    """Where the lengths come from, for the reader."""

    @cached_property
    def tokens_per_step(self) -> float:
        """Mean tokens of a batch."""
        return float(self.lengths.sum(dtype=np.int64)) / len(self.batches)

    @cached_property
    def effective_length(self) -> float:
        """``S_eff``: the length that an average token's attention sees."""
        lengths = self.lengths.astype(np.float64)
        return float((lengths**2).sum() / lengths.sum())

    @property
    def lengths(self) -> Lengths:
        """All documents of the batches, [D]."""
        return np.concatenate([pack for batch in self.batches for pack in batch])


def find_workload(settings: PlanSettings) -> Workload:
    """Read or draw the lengths.

    Raises:
        InputError: the packs cannot be read or are fewer than a batch.
    """
    return _drawn(settings) if settings.packs is None else _read(settings)


def _read(settings: PlanSettings) -> Workload:
    assert settings.packs is not None
    packs = PackSet.open(settings.packs)
    plans = [packs.plan(epoch) for epoch in range(packs.num_epochs)]
    sizes = tuple(plan.document_counts for plan in plans)
    order = Batches(sizes, settings.global_batch_size, settings.seed)
    steps = order.num_steps(settings.max_epochs, settings.max_steps)
    if not steps:
        raise InputError.at(
            settings.packs,
            None,
            f"{len(plans[0])} packs are fewer than a batch of {settings.global_batch_size}; lower"
            " global_batch_size or raise max_epochs",
        )
    lengths = packs.training.lengths
    batches = [
        [lengths[plans[pack.epoch % len(plans)][pack.pack]] for pack in order[step]]
        for step in range(min(NUM_BATCHES, steps))
    ]
    return Workload(batches, packs.pack_size, steps, f"{len(plans[0]):,} packs of {settings.packs}")


def _drawn(settings: PlanSettings) -> Workload:
    size, mean, sigma = settings.pack_size, settings.mean_tokens, settings.sigma
    rng = np.random.default_rng(settings.seed)
    num_packs = NUM_BATCHES * settings.global_batch_size
    lengths = np.zeros(0, np.int32)
    while lengths.sum(dtype=np.int64) < _SPARE * num_packs * size:
        drawn = rng.lognormal(math.log(mean) - sigma**2 / 2, sigma, num_packs)
        lengths = np.append(lengths, np.clip(drawn, 1, size).astype(np.int32))
    packing = pack(lengths, size, "random-exact", (settings.seed,))
    packs = np.split(lengths[packing.documents], packing.starts[1:-1])
    batch = settings.global_batch_size
    batches = [packs[start : start + batch] for start in range(0, num_packs, batch)]
    num_steps = settings.max_steps
    if settings.documents is not None:
        in_all = settings.documents * len(packs) / len(lengths) * settings.max_epochs
        in_epochs = int(in_all) // batch
        num_steps = in_epochs if num_steps is None else min(in_epochs, num_steps)
    source = f"drawn: log-normal, mean {mean:,.0f}, sigma {sigma:g}, cut at {size:,}"
    return Workload(batches, size, num_steps, source)
