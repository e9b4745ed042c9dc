"""What k solutions of one problem score, in expectation over all choices of k among n samples.

Exact, by counting; nothing is drawn at random. A worked trace: 3 samples, one of them right::

    pass@1 1/3      pass@2 1 - C(2,2)/C(3,2) = 2/3      pass@3 1

Majority@k, the same samples answering 7 (right), 8, 9: each pair holds two answers with one vote,
the credit of a tie is shared, so the two pairs with the 7 score 1/2 each and majority@2 is 1/3.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import comb

import numpy as np


def choose_ks(samples: int) -> list[int]:
    """Return the powers of two below ``samples``, then ``samples``; nothing for a single one.

    >>> choose_ks(12)
    [1, 2, 4, 8, 12]
    """
    if samples < 2:
        return []
    return [*(1 << power for power in range(samples.bit_length()) if 1 << power < samples), samples]


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Return the chance that k of the samples hold a right one.

    Source: Chen et al. 2021 (arXiv:2107.03374), eq. 1.
    """
    return float(1 - Fraction(comb(samples - right, k), comb(samples, k)))


def majority_at_k(right: int, others: Sequence[int], silent: int, ks: Sequence[int]) -> list[float]:
    """Return what a vote of k samples scores, for each of ``ks``.

    ``right`` samples vote for the right answer, ``others[i]`` for wrong answer i, and ``silent``
    do not vote. Answers that tie for the most votes share the credit; no vote at all scores 0.
    """
    samples, most = right + sum(others) + silent, max(ks)
    credits = [Fraction(0)] * (most + 1)
    for votes in range(1, min(right, most) + 1):
        # table[v, t]: ways to take v samples that did not vote right, t answers tying with it.
        table = np.zeros((most - votes + 1, len(others) + 1), dtype=object)
        table[0, 0] = comb(right, votes)
        for count in others:
            table = _add_answer(table, count, votes)
        table = _add_silent(table, silent)
        for taken, row in enumerate(table):
            shared = (Fraction(ways, ties + 1) for ties, ways in enumerate(row) if ways)
            credits[votes + taken] += sum(shared, Fraction(0))
    return [float(credits[k] / comb(samples, k)) for k in ks]


def best_at_k(scored: Sequence[tuple[float, bool]], k: int) -> float:
    """Return how often the sample with the highest reward of k is right.

    ``scored`` holds ``(reward, right)`` of every sample. Equal rewards share the credit.
    """
    total, below, expected = comb(len(scored), k), 0, Fraction(0)
    for reward in sorted({reward for reward, _ in scored}):
        tied = [right for value, right in scored if value == reward]
        # Choices whose highest reward is this one; each of the tied is as likely to be in it.
        ways = comb(below + len(tied), k) - comb(below, k)
        expected += Fraction(ways * sum(tied), len(tied))
        below += len(tied)
    return float(expected / total)


def _add_answer(table: np.ndarray, count: int, votes: int) -> np.ndarray:
    """Let 0 to ``votes`` of the ``count`` samples with one more wrong answer be taken."""
    grown = np.zeros_like(table)
    for taken in range(min(count, votes, len(table) - 1) + 1):
        part = table[: len(table) - taken] * comb(count, taken)
        if taken == votes:
            grown[taken:, 1:] += part[:, :-1]
        else:
            grown[taken:] += part
    return grown


def _add_silent(table: np.ndarray, silent: int) -> np.ndarray:
    grown = np.zeros_like(table)
    for taken in range(min(silent, len(table) - 1) + 1):
        grown[taken:] += table[: len(table) - taken] * comb(silent, taken)
    return grown
