"""The inner loops of packing: plain Python that numba can compile.

Below ``COMPILE_FROM`` documents they run as they are on lists, whose numbers Python reads several
times as fast as those of arrays, because compiling takes longer than the work; above, the very same
functions are compiled for arrays, once per installation. What they compute, and a worked trace, is
in ``longrun.data.packs.packing``.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

COMPILE_FROM = 150_000
"""Documents from which on compiling pays, at 4 us a document that is not compiled: compiling takes
2.5 s, loading what was compiled before 0.5 s."""
_CANDIDATES = 8
"""Fitting documents among which a pack draws."""
_LOOK_AHEAD = 64
"""Waiting documents that are looked at for candidates."""
_FILLS_ALONE = 4
"""Weight of a candidate that makes the pack full by itself; else the number of complements."""

Numbers = Any
"""Numbers by position: a list, or, compiled, an array."""
Loop = Callable[..., Any]


def run_loop(loop: Loop, documents: Numbers, *arguments: Any) -> Any:
    """Call one of the loops below with arrays, compiled when there are many documents.

    ``documents`` has a number for each document. What the loop returns is arrays of int64.
    """
    if len(documents) < COMPILE_FROM:
        given = [one.tolist() if isinstance(one, np.ndarray) else one for one in arguments]
        found = loop(documents.tolist(), *given)
    else:
        found = compiled(loop)(documents, *arguments)
    if isinstance(found, tuple):
        return tuple(np.asarray(one, np.int64) for one in found)
    return np.asarray(found, np.int64)


def compiled(loop: Loop) -> Loop:
    """Return ``loop`` compiled by numba; the result is kept on disk for the next process."""
    import numba

    _tell_numba()
    result: Loop = numba.njit(cache=True)(loop)
    return result


@lru_cache(maxsize=1)
def _tell_numba() -> None:
    """Register what the loops call."""
    from numba.extending import overload, register_jitable

    for part in _PARTS:
        register_jitable(part)
    overload(_numbers)(lambda count, value: lambda count, value: np.full(count, value, np.int64))
    overload(_flags)(lambda count: lambda count: np.zeros(count, np.bool_))


def _numbers(count: int, value: int) -> Numbers:
    """Return ``count`` integers, all ``value``; compiled, an array."""
    return [value] * count


def _flags(count: int) -> Numbers:
    """Return ``count`` times false; compiled, an array."""
    return [False] * count


def fit_next(lengths: Numbers, pack_size: int) -> Numbers:
    """Return [P + 1] starts: a pack ends at the first document that does not fit."""
    starts = _numbers(len(lengths) + 1, 0)
    num_packs, room = 0, 0
    for document in range(len(lengths)):
        length = lengths[document]
        if length > room:
            starts[num_packs] = document
            num_packs += 1
            room = pack_size
        room -= length
    starts[num_packs] = len(lengths)
    return starts[: num_packs + 1]


def shuffle_inside(documents: Numbers, starts: Numbers, uniform: Numbers) -> Numbers:
    """Return ``documents`` [N], shuffled in place inside packs; ``uniform`` [N] are random."""
    for number in range(len(starts) - 1):
        begin = starts[number]
        for place in range(starts[number + 1] - 1, begin, -1):
            other = begin + int(uniform[place] * (place - begin + 1))
            kept = documents[place]
            documents[place] = documents[other]
            documents[other] = kept
    return documents


def fit_best(lengths: Numbers, order: Numbers, pack_size: int) -> Numbers:
    """Return [N] the pack of each document, taken in ``order``, each where it fits best.

    Open packs lie on one stack per amount of room. ``some`` is a binary tree over the amounts in
    an array (children of node n: 2 n and 2 n + 1); a node is true when a stack below it holds a
    pack, so the least room that is enough is found in O(log pack_size).
    """
    leaves = 1
    while leaves <= pack_size:
        leaves *= 2
    some = _flags(2 * leaves)
    top = _numbers(pack_size + 1, -1)
    below = _numbers(len(lengths), -1)
    packs = _numbers(len(lengths), 0)
    num_packs = 0
    for document in order:
        length = lengths[document]
        room = _least_at_least(some, length)
        if room < 0:
            chosen, room = num_packs, pack_size
            num_packs += 1
        else:
            chosen = top[room]
            top[room] = below[chosen]
            if top[room] < 0:
                _unmark(some, room)
        packs[document] = chosen
        room -= length
        below[chosen] = top[room]
        top[room] = chosen
        _mark(some, room)
    return packs


def _least_at_least(some: Numbers, amount: int) -> int:
    """Return the smallest marked amount of at least ``amount``; -1: there is none."""
    leaves = len(some) // 2
    node = leaves + amount
    while not some[node]:
        # To the next subtree on the right: up while this is a right child, then across.
        while node % 2 == 1:
            node //= 2
        if node == 0:
            return -1
        node += 1
    while node < leaves:
        node = 2 * node if some[2 * node] else 2 * node + 1
    return node - leaves


def _mark(some: Numbers, amount: int) -> None:
    node = len(some) // 2 + amount
    while node >= 1 and not some[node]:
        some[node] = True
        node //= 2


def _unmark(some: Numbers, amount: int) -> None:
    node = len(some) // 2 + amount
    some[node] = False
    node //= 2
    while node >= 1:
        some[node] = some[2 * node] or some[2 * node + 1]
        node //= 2


class _Waiting(NamedTuple):
    """The documents that are not in a pack yet. N documents, lengths up to C."""

    lengths: Numbers
    """[N]."""
    order: Numbers
    """[N] in which they wait."""
    used: Numbers
    """[N] whether a document is in a pack."""
    left: Numbers
    """[C + 1] documents of each length that wait."""
    fits: Numbers
    """[C + 1] leads from x to the longest waiting length of at most x: follow it until it
    stays. Lengths only ever run out, so paths only ever get shorter."""
    by_length: Numbers
    """[N] documents of length 1 in waiting order, then of length 2, ..."""
    next_of: Numbers
    """[C + 2] where in ``by_length`` the next document of a length is found, or one before."""


def fill_exactly(
    lengths: Numbers, order: Numbers, uniform: Numbers, pack_size: int
) -> tuple[Numbers, Numbers]:
    """Return [N] documents in pack order and [P + 1] starts; see ``longrun.data.packs.packing``.

    ``order`` [N] is the order of waiting, ``uniform`` [N] the random numbers of the draws.
    """
    waiting = _index(lengths, order, pack_size)
    documents = _numbers(len(lengths), 0)
    starts = _numbers(len(lengths) + 1, 0)
    candidates, weights = _numbers(_CANDIDATES, 0), _numbers(_CANDIDATES, 0)
    head, num_packs, room, complement = 0, 0, 0, 0
    for taken in range(len(lengths)):
        longest = _longest_fitting(waiting.fits, room)
        if longest == 0:
            # The pack is full, or nothing that waits fits: open the next one.
            starts[num_packs] = taken
            num_packs += 1
            room, complement = pack_size, 0
            while waiting.used[order[head]]:
                head += 1
            chosen = order[head]
        elif complement > 0:
            chosen = _next_of_length(waiting, complement)
            complement = 0
        else:
            found = _look_ahead(waiting, head, room, candidates, weights)
            pick = 0 if 2 * room > pack_size else _draw(weights, found, uniform[taken])
            if found == 0 or pick < 0:
                chosen = _next_of_length(waiting, longest)
            else:
                chosen = candidates[pick]
                if 2 * room <= pack_size:
                    complement = room - lengths[chosen]
        documents[taken] = chosen
        room -= lengths[chosen]
        _take(waiting, chosen)
    starts[num_packs] = len(lengths)
    return documents, starts[: num_packs + 1]


def _index(lengths: Numbers, order: Numbers, pack_size: int) -> _Waiting:
    num = len(lengths)
    left = _numbers(pack_size + 1, 0)
    for document in range(num):
        left[lengths[document]] += 1
    next_of = _numbers(pack_size + 2, 0)
    fits = _numbers(pack_size + 1, 0)
    for length in range(1, pack_size + 1):
        next_of[length + 1] = next_of[length] + left[length]
        fits[length] = length if left[length] > 0 else fits[length - 1]
    slots = next_of.copy()
    by_length = _numbers(num, 0)
    for document in order:
        length = lengths[document]
        by_length[slots[length]] = document
        slots[length] += 1
    used = _flags(num)
    return _Waiting(lengths, order, used, left, fits, by_length, next_of)


def _longest_fitting(fits: Numbers, room: int) -> int:
    """Return the longest waiting length of at most ``room``; 0: there is none."""
    length = room
    while fits[length] != length:
        fits[length] = fits[fits[length]]
        length = fits[length]
    return length


def _next_of_length(waiting: _Waiting, length: int) -> int:
    """Return the waiting document of ``length`` that has waited longest; there must be one."""
    place = waiting.next_of[length]
    while waiting.used[waiting.by_length[place]]:
        place += 1
    waiting.next_of[length] = place
    return waiting.by_length[place]  # type: ignore[no-any-return]


def _look_ahead(
    waiting: _Waiting, head: int, room: int, candidates: Numbers, weights: Numbers
) -> int:
    """Find the next waiting documents that fit into ``room``; return how many.

    Fills ``candidates`` and, as ``weights``, how many documents of the complementary length wait.
    """
    found, looked, place = 0, 0, head
    while place < len(waiting.order) and found < _CANDIDATES and looked < _LOOK_AHEAD:
        document = waiting.order[place]
        place += 1
        if waiting.used[document]:
            continue
        looked += 1
        length = waiting.lengths[document]
        if length > room:
            continue
        candidates[found] = document
        weights[found] = _FILLS_ALONE
        if length < room:
            itself = 1 if 2 * length == room else 0
            weights[found] = waiting.left[room - length] - itself
        found += 1
    return found


def _draw(weights: Numbers, num: int, uniform: float) -> int:
    """Return an index below ``num``, drawn by weight; -1: all weights are 0."""
    total = 0
    for pick in range(num):
        total += weights[pick]
    rest, chosen = uniform * total, -1
    for pick in range(num):
        if weights[pick] > 0:
            chosen = pick
            rest -= weights[pick]
            if rest < 0.0:
                break
    return chosen


def _take(waiting: _Waiting, document: int) -> None:
    length = waiting.lengths[document]
    waiting.used[document] = True
    waiting.left[length] -= 1
    if waiting.left[length] == 0:
        waiting.fits[length] = waiting.fits[length - 1]


_PARTS: tuple[Loop, ...] = (
    _least_at_least,
    _mark,
    _unmark,
    _index,
    _longest_fitting,
    _next_of_length,
    _look_ahead,
    _draw,
    _take,
)
