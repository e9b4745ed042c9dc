"""Packing: which documents share a pack. Pure functions from lengths to lists of indices.

``random-exact`` makes packs that are full to the last token and yet as mixed as random draws.
Documents wait in a random order. A pack takes the next ones; once less than half of it is free,
it looks at the next few that fit and asks for each: how many documents of exactly the length
that would then be missing are left? One is drawn with probability proportional to that count,
and its complement closes the pack. Drawing by count keeps scarce lengths for later, so the last
packs are as full as the first. A worked trace, packs of 10 tokens, waiting in this order::

    document   0  1  2  3  4  5  6
    length     4  3  6  3  7  4  3

    pack 0: takes 0 (4). 6 are free, more than half: takes 1 (3). 3 are free.
            Of those that fit: document 3 fills it alone, 6 too. Draws 3. Full: [0 1 3].
    pack 1: takes 2 (6). 4 are free. Document 5 (4) fills it alone; document 6 (3) would miss 1,
            of which there is none. Draws 5. Full: [2 5].
    pack 2: takes 4 (7). 3 are free. Draws 6. Full: [4 6].

When nothing can make the pack exactly full, the longest document that fits is taken. Packs
leave in the order in which they are made, which is random already.

``best-fit`` is best-fit decreasing: documents from long to short, each into the pack with the least
room that still holds it. It is as full, but its packs hold documents of like length, so it is
kept for comparison. ``sequential`` closes a pack at the first document that does not fit.

The inner loops are plain Python over arrays. Above ``COMPILE_FROM`` documents numba compiles
the same functions; below, compiling would take longer than the work.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

COMPILE_FROM = 20_000
"""Documents from which on compiling the inner loop pays."""
_CANDIDATES = 8
"""Fitting documents among which a pack chooses its second to last one."""
_LOOK_AHEAD = 64
"""Waiting documents that are looked at for candidates."""
_FILLS_ALONE = 4.0
"""Weight of a candidate that makes the pack full by itself; of a pair, the number of partners."""

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Packing(NamedTuple):
    """N documents in P packs."""

    documents: Int64s
    """[N] every index once, in pack order."""
    starts: Int64s
    """[P + 1]."""


def pack(lengths: Int32s, pack_size: int, strategy: str, seed: tuple[int, ...]) -> Packing:
    """Pack documents of ``lengths`` [N] into packs of at most ``pack_size`` tokens.

    Nothing is lost, repeated or split, and the result depends on the arguments alone.

    Raises:
        ValueError: a document is longer than a pack or empty, or the strategy is unknown.
    """
    if len(lengths) and not 0 < lengths.min() <= lengths.max() <= pack_size:
        raise ValueError(f"lengths must be in 1 .. {pack_size}")
    rng = np.random.default_rng(seed)
    if strategy == "random-exact":
        order = rng.permutation(len(lengths))
        return Packing(*_run(_fill_exactly, lengths, order, rng.random(len(lengths)), pack_size))
    if strategy == "best-fit":
        order = np.argsort(-lengths.astype(np.int64), kind="stable")
        return _shuffle(Packing(*_by_pack(_run(_fit_best, lengths, order, pack_size))), rng)
    if strategy == "sequential":
        return Packing(*_run(_fit_next, lengths, pack_size))
    if strategy == "none":
        return Packing(rng.permutation(len(lengths)), np.arange(len(lengths) + 1))
    raise ValueError(f"unknown strategy {strategy!r}")


def _run(loop: Callable[..., Any], lengths: Int32s, *arguments: Any) -> Any:
    if len(lengths) < COMPILE_FROM:
        # Items of a Python list are read several times faster than those of an array.
        return loop(lengths, *arguments)
    import numba

    return numba.njit(cache=True)(loop)(lengths, *arguments)


def _by_pack(packs: Int32s) -> tuple[Int64s, Int64s]:
    """Turn [N] pack numbers into documents in pack order and starts."""
    counts = np.bincount(packs) if len(packs) else np.zeros(0, np.int64)
    return np.argsort(packs, kind="stable"), np.append(0, np.cumsum(counts)).astype(np.int64)


def _shuffle(packing: Packing, rng: np.random.Generator) -> Packing:
    """Return the same packs in a random order."""
    sizes = np.diff(packing.starts)
    order = rng.permutation(len(sizes))
    starts = np.append(0, np.cumsum(sizes[order])).astype(np.int64)
    within = np.arange(starts[-1]) - np.repeat(starts[:-1], sizes[order])
    return Packing(packing.documents[np.repeat(packing.starts[order], sizes[order]) + within], starts)


def _fit_next(lengths: Int32s, pack_size: int) -> tuple[Int64s, Int64s]:
    starts = np.zeros(len(lengths) + 1, np.int64)
    num_packs, room = 0, 0
    for document in range(len(lengths)):
        length = lengths[document]
        if length > room:
            starts[num_packs] = document
            num_packs += 1
            room = pack_size
        room -= length
    starts[num_packs] = len(lengths)
    return np.arange(len(lengths)), starts[: num_packs + 1]


def _fit_best(lengths: Int32s, order: Int64s, pack_size: int) -> Int32s:
    """Return [N] the pack of each document, taken in ``order``.

    Open packs lie on one stack per amount of room. ``some`` is a binary tree over the amounts, in
    an array: a node is true when a stack below it is not empty, so the smallest room that holds
    a document is found in two walks along a path: O(N log pack_size).
    """
    leaves = 1
    while leaves <= pack_size:
        leaves *= 2
    some = np.zeros(2 * leaves, np.bool_)
    top = np.full(pack_size + 1, -1, np.int64)
    below = np.full(len(lengths), -1, np.int64)
    packs = np.zeros(len(lengths), np.int32)
    num_packs = 0
    for document in order:
        length = lengths[document]
        node = leaves + length
        while node > 1 and not some[node]:
            # To the next subtree on the right, or up while there is none.
            while node > 1 and node % 2 == 1:
                node //= 2
            if node > 1:
                node += 1
        if node <= 1:
            chosen, room = num_packs, pack_size
            num_packs += 1
        else:
            while node < leaves:
                node = 2 * node if some[2 * node] else 2 * node + 1
            room = node - leaves
            chosen = top[room]
            top[room] = below[chosen]
            if top[room] < 0:
                some[node] = False
                node //= 2
                while node >= 1:
                    some[node] = some[2 * node] or some[2 * node + 1]
                    node //= 2
        packs[document] = chosen
        room -= length
        below[chosen] = top[room]
        top[room] = chosen
        node = leaves + room
        while node >= 1 and not some[node]:
            some[node] = True
            node //= 2
    return packs


def _fill_exactly(
    lengths: Int32s, order: Int64s, uniform: Floats, pack_size: int
) -> tuple[Int64s, Int64s]:
    """Return documents in pack order and starts; see the module docstring.

    ``order`` [N] is the waiting order, ``uniform`` [N] the random numbers of the draws.
    ``by_length`` holds the documents of each length together, in waiting order; ``fits[x]`` leads
    to the longest length of at most x that is left (a forest whose paths are halved on the way,
    since lengths only ever run out).
    """
    num = len(lengths)
    left = np.zeros(pack_size + 1, np.int64)
    for document in range(num):
        left[lengths[document]] += 1
    next_of = np.zeros(pack_size + 2, np.int64)
    for length in range(pack_size + 1):
        next_of[length + 1] = next_of[length] + left[length]
    by_length = np.zeros(num, np.int64)
    slot = next_of[:-1].copy()
    for document in order:
        by_length[slot[lengths[document]]] = document
        slot[lengths[document]] += 1
    fits = np.zeros(pack_size + 1, np.int64)
    for length in range(1, pack_size + 1):
        fits[length] = length if left[length] > 0 else fits[length - 1]

    used = np.zeros(num, np.bool_)
    documents = np.zeros(num, np.int64)
    starts = np.zeros(num + 1, np.int64)
    candidates = np.zeros(_CANDIDATES, np.int64)
    weights = np.zeros(_CANDIDATES)
    head, taken, num_packs, room, wanted = 0, 0, 0, 0, 0
    while taken < num:
        longest = room
        while fits[longest] != longest:
            fits[longest] = fits[fits[longest]]
            longest = fits[longest]
        if longest == 0:
            # Full, or nothing that is left fits: open the next pack.
            starts[num_packs] = taken
            num_packs += 1
            room = pack_size
            wanted = 0
            while used[order[head]]:
                head += 1
            chosen = order[head]
        elif wanted > 0:
            # The complement of the candidate drawn before.
            while used[by_length[next_of[wanted]]]:
                next_of[wanted] += 1
            chosen = by_length[next_of[wanted]]
            wanted = 0
        else:
            found, looked, total, position = 0, 0, 0.0, head
            while position < num and found < _CANDIDATES and looked < _LOOK_AHEAD:
                document = order[position]
                position += 1
                if used[document]:
                    continue
                looked += 1
                missing = room - lengths[document]
                if missing < 0:
                    continue
                weight = _FILLS_ALONE
                if missing > 0:
                    weight = left[missing] - (1.0 if missing == lengths[document] else 0.0)
                candidates[found] = document
                weights[found] = weight
                total += weight
                found += 1
            if found > 0 and 2 * room > pack_size:
                chosen = candidates[0]
            elif total > 0.0:
                drawn, pick = uniform[taken] * total - weights[0], 0
                while drawn >= 0.0 and pick < found - 1:
                    pick += 1
                    drawn -= weights[pick]
                chosen = candidates[pick]
                if weights[pick] > 0.0:
                    wanted = room - lengths[chosen]
            else:
                while used[by_length[next_of[longest]]]:
                    next_of[longest] += 1
                chosen = by_length[next_of[longest]]
        used[chosen] = True
        documents[taken] = chosen
        taken += 1
        length = lengths[chosen]
        room -= length
        left[length] -= 1
        if left[length] == 0:
            fits[length] = fits[length - 1]
    starts[num_packs] = num
    return documents, starts[: num_packs + 1]
