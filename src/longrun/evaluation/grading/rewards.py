"""Rewards of solutions, given by a model or program outside Longrun, read from JSON lines.

One line is ``{"model": ..., "benchmark": ..., "id": ..., "sample": 0, "reward": 0.73}``; any
finite number, higher is better. They choose among solutions and never change a grade.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from longrun.errors import InputError
from longrun.formats.predictions import Grade, read_rows

Key = tuple[str, str]
"""Model label and benchmark."""


class RewardRow(msgspec.Struct, frozen=True, kw_only=True):
    """The reward of one solution."""

    model: str
    benchmark: str
    id: str
    sample: int
    reward: float


def read_rewards(
    paths: Sequence[Path], grades: Mapping[Key, Sequence[Grade]]
) -> dict[Key, dict[tuple[str, int], float]]:
    """Return model and benchmark -> (id, sample) -> reward.

    Raises:
        InputError: a line is damaged, a reward is not finite or given twice, or a model and
            benchmark with rewards has solutions without one.
    """
    found: dict[Key, dict[tuple[str, int], float]] = defaultdict(dict)
    for path in paths:
        for line, row in read_rows(path, RewardRow):
            rewards = found[row.model, row.benchmark]
            if not math.isfinite(row.reward):
                raise InputError.at(path, line, f"reward is {row.reward}; give a finite number")
            if (row.id, row.sample) in rewards:
                problem = f"{row.id} sample {row.sample} has a reward already; give one for each"
                raise InputError.at(path, line, problem)
            rewards[row.id, row.sample] = row.reward
    for label, name in found.keys() - grades.keys():
        raise InputError(
            f"rewards: no predictions of model {label} on {name}; there are those of "
            + ", ".join(f"{model} on {benchmark}" for model, benchmark in grades)
        )
    for key, rewards in found.items():
        missing = [one for one in grades[key] if (one.id, one.sample) not in rewards]
        if missing:
            raise InputError(
                f"rewards: {len(missing)} solutions of {key[0]} on {key[1]} have none, the first"
                f" is {missing[0].id} sample {missing[0].sample}; give every solution a reward"
            )
    return dict(found)
