"""Small arithmetic problems with known answers, for a run of the whole pipeline on a laptop.

Each family asks for a short expression in a few named one-digit numbers, with an answer of at
most two digits, so that a model of a million parameters can learn it in minutes. Long sums and
remainders are the hard families.
Whether an operand combination is held out depends on the combination alone: no seed, mode or
number of problems ever moves it from the benchmark into the training data.

It never writes solutions (``solutions``) or files (``dataset``).
"""

import math
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

NAMES = "abcde"
"""Names of the operands, in the order in which a problem states them."""
MODULUS = "m"
"""Name of the divisor in a problem about a remainder."""

_HELD_OUT_SHARE = 8
"""One operand combination in so many belongs to the benchmark."""
_SOLVER_ATTEMPTS = 32
_UNKNOWN_SHARE = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Problems of one shape: the operation, and how many operands it may have."""

    source: str
    """What the records carry as ``problem_source``."""
    operation: Literal["sum", "product", "remainder"]
    fewest_operands: int
    most_operands: int
    slip_chance: float
    """Chance that the simulated solver gets one operand wrong."""


SUM_FAMILIES = (
    Family(
        source="synthetic_sums",
        operation="sum",
        fewest_operands=2,
        most_operands=3,
        slip_chance=0.1,
    ),
    Family(
        source="synthetic_long_sums",
        operation="sum",
        fewest_operands=4,
        most_operands=4,
        slip_chance=0.25,
    ),
)
CODE_FAMILIES = (
    Family(
        source="synthetic_products",
        operation="product",
        fewest_operands=3,
        most_operands=3,
        slip_chance=0.15,
    ),
    Family(
        source="synthetic_remainders",
        operation="remainder",
        fewest_operands=3,
        most_operands=3,
        slip_chance=0.25,
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One stated problem and its right answer."""

    family: Family
    operands: tuple[int, ...]
    """One digit each; a remainder's last operand is the divisor."""

    @property
    def names(self) -> list[str]:
        """Name every operand, in the order of the statement."""
        if self.family.operation == "remainder":
            return [*NAMES[: len(self.operands) - 1], MODULUS]
        return list(NAMES[: len(self.operands)])

    @property
    def text(self) -> str:
        """State the problem in one line."""
        given = ", ".join(
            f"{name} = {value}" for name, value in zip(self.names, self.operands, strict=True)
        )
        return f"Given: {given}. Find: {self.expression}."

    @property
    def expression(self) -> str:
        """Write what is asked for in the operands' names, as Python reads it."""
        if self.family.operation == "sum":
            return " + ".join(self.names)
        if self.family.operation == "product":
            first, second, third = self.names
            return f"{first} * {second} + {third}"
        return f"{' * '.join(self.names[:-1])} % {MODULUS}"

    @property
    def answer(self) -> int:
        """Work the problem out."""
        if self.family.operation == "sum":
            return sum(self.operands)
        if self.family.operation == "product":
            first, second, third = self.operands
            return first * second + third
        return math.prod(self.operands[:-1]) % self.operands[-1]

    @property
    def is_held_out(self) -> bool:
        """Say whether the operand combination belongs to the benchmark."""
        key = ",".join(map(str, self.operands))
        return zlib.crc32(key.encode()) % _HELD_OUT_SHARE == 0


def draw_problems(
    families: tuple[Family, ...], rng: random.Random, *, held_out: bool
) -> Iterator[Problem]:
    """Yield problems without end, the families in turn at random; repeats are possible."""
    while True:
        family = rng.choice(families)
        count = rng.randint(family.fewest_operands, family.most_operands)
        operands = [rng.randint(1, 9) for _ in range(count)]
        if family.operation == "remainder":
            operands.append(rng.randint(2, 9))
        problem = Problem(family=family, operands=tuple(operands))
        if problem.is_held_out == held_out:
            yield problem


def draw_pass_rate(problem: Problem, rng: random.Random) -> str:
    """Return the share of 32 attempts in which a simulated noisy solver is right, as text.

    The solver slips at each operand with the family's chance, so long problems score low. One
    record in twenty was never tried and says ``n/a``, as in the published data.
    """
    chance = (1.0 - problem.family.slip_chance) ** len(problem.operands)
    solved = sum(rng.random() < chance for _ in range(_SOLVER_ATTEMPTS))
    unknown = rng.random() < _UNKNOWN_SHARE
    return "n/a" if unknown else str(solved / _SOLVER_ATTEMPTS)
