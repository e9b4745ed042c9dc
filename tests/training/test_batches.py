import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.training.batches import Batches, PackId, TokenBatches, WindowedBatches

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=3)


def documents_of(sizes):
    """Return the documents of every pack of plans of ``sizes`` packs."""
    return tuple(1 + np.arange(size) % 3 for size in sizes)


@given(SIZES, st.integers(1, 8), st.integers(0, 5))
def test_batches_use_every_pack_once_per_epoch_in_the_shuffled_order(sizes, batch_size, seed):
    batches = Batches(documents_of(sizes), batch_size, seed)
    num_epochs = 2 * len(sizes)
    line = [PackId(epoch, pack) for epoch in range(num_epochs) for pack in batches.order(epoch)]
    assert all(
        sorted(batches.order(epoch)) == list(range(sizes[epoch % len(sizes)]))
        for epoch in range(num_epochs)
    )
    steps = len(line) // batch_size
    assert [pack for step in range(steps) for pack in batches[step]] == line[: steps * batch_size]


@given(SIZES, st.integers(1, 8), st.integers(0, 40))
def test_a_batch_does_not_depend_on_the_batches_before_it(sizes, batch_size, step):
    fresh, used = (Batches(documents_of(sizes), batch_size, 0) for _ in range(2))
    for earlier in range(step):
        used[earlier]
    assert fresh[step] == used[step]
    epoch, position = fresh.place(step)
    assert sum(sizes[e % len(sizes)] for e in range(epoch)) + position == step * batch_size


def one_by_one(sizes, supervised, wanted, seed, num_batches):
    """Batches as the setting says it: packs are taken until their tokens suffice."""
    line = Batches(documents_of(sizes), 1, seed)
    batches, epoch = [[]], 0
    while len(batches) <= num_batches:
        for pack in line.order(epoch):
            batches[-1].append(PackId(epoch, int(pack)))
            if sum(supervised[e % len(sizes)][p] for e, p in batches[-1]) >= wanted:
                batches.append([])
        epoch += 1
    return batches[:num_batches]


@given(SIZES, st.integers(1, 20), st.integers(0, 5), st.randoms(use_true_random=False))
def test_a_batch_in_tokens_takes_packs_until_it_has_enough(sizes, wanted, seed, random):
    supervised = tuple(np.array([random.randint(0, 9) for _ in range(n)]) for n in sizes)
    supervised[0][0] = 5
    expected = one_by_one(sizes, supervised, wanted, seed, 12)
    batches = TokenBatches(documents_of(sizes), supervised, wanted, seed)
    assert batches[11] == expected[11]  # before any other was asked for
    assert [batches[step] for step in range(12)] == expected
    used = 0
    for step in range(12):
        epoch, position = batches.place(step)
        assert sum(sizes[e % len(sizes)] for e in range(epoch)) + position == used
        used += len(expected[step])


@given(SIZES, st.integers(1, 9), st.integers(0, 3), st.integers(0, 12))
def test_batches_in_tokens_end_where_the_passes_or_the_steps_end(sizes, wanted, seed, quarters):
    tokens = tuple(1 + np.arange(n) for n in sizes)
    batches = TokenBatches(documents_of(sizes), tokens, wanted, seed)
    epochs = quarters / 4
    ends = np.cumsum([len(batch) for batch in one_by_one(sizes, tokens, wanted, seed, 90)])
    line = [sizes[epoch % len(sizes)] for epoch in range(4)]
    packs = sum(line[: int(epochs)]) + int((epochs % 1) * line[int(epochs)])
    expected = sum(int(end) <= packs for end in ends)
    assert batches.num_steps(epochs, None) == expected
    assert batches.num_steps(epochs, 3) == min(expected, 3)


def test_the_order_depends_on_seed_and_epoch():
    lines = [Batches(documents_of([20]), 1, seed) for seed in range(3)]
    orders = {tuple(line.order(epoch)) for line in lines for epoch in range(3)}
    assert len(orders) == 9
    assert all(sorted(order) == list(range(20)) for order in orders)


def test_the_order_is_the_same_on_every_machine():
    assert Batches(documents_of([8]), 1, 1).order(2).tolist() == [6, 7, 0, 1, 5, 4, 2, 3]


def test_batches_hold_about_as_many_documents_in_every_epoch():
    drawn = np.random.default_rng(0).choice([1, 2, 3, 4, 5, 6, 7, 9], 4096)
    batches = Batches((drawn,), 256, 0)
    for first in (0, 16):  # the second epoch is another order of the same plan
        sums = [
            sum(int(drawn[pack.pack]) for pack in batches[step])
            for step in range(first, first + 16)
        ]
        assert np.std(sums) / np.mean(sums) < 0.006
    assert batches.order(0).tolist() != batches.order(1).tolist()


@pytest.mark.parametrize(
    ("epochs", "steps", "expected"),
    [(1.0, None, 2), (1.5, None, 3), (2.0, None, 5), (2.0, 3, 3), (0.2, None, 0), (2.0, 99, 5)],
)
def test_the_smaller_bound_holds_and_a_short_last_batch_is_left_out(epochs, steps, expected):
    assert Batches(documents_of([9, 11]), 4, 0).num_steps(epochs, steps) == expected


def test_passes_over_the_packs_are_counted_in_fractions():
    batches = Batches(documents_of([4, 8]), 2, 0)
    assert [batches.epochs_before(step) for step in (0, 1, 2, 3, 6)] == [0, 0.5, 1, 1.25, 2]


def windowed(sizes, batch_size, window, seed=0):
    rng = np.random.default_rng(7)
    costs = tuple(rng.permutation(size).astype(np.float64) for size in sizes)
    return WindowedBatches(documents_of(sizes), batch_size, seed, window, costs)


@given(SIZES, st.integers(1, 4), st.integers(2, 4), st.integers(0, 3))
def test_a_window_has_the_packs_of_its_batches_and_each_is_used_once(
    sizes, batch_size, window, number
):
    plain, sorted_ = (
        Batches(documents_of(sizes), batch_size, 0),
        windowed(sizes, batch_size, window),
    )
    steps = range(number * window, (number + 1) * window)
    assert Counter(pack for step in steps for pack in sorted_[step]) == Counter(
        pack for step in steps for pack in plain[step]
    )
    assert [sorted_[step] for step in reversed(steps)] == [
        windowed(sizes, batch_size, window)[step] for step in reversed(steps)
    ]


@given(st.integers(2, 4), st.integers(1, 4), st.integers(0, 3))
def test_the_batches_of_a_window_do_not_overlap_in_cost(window, batch_size, number):
    batches = windowed([60], batch_size, window)
    spans = []
    for step in range(number * window, (number + 1) * window):
        costs = [batches.costs[0][pack.pack] for pack in batches[step]]
        spans.append((min(costs), max(costs)))
    spans.sort()
    assert all(one[1] < two[0] for one, two in pairwise(spans))


def test_the_batches_of_a_window_are_not_used_in_the_order_of_their_cost():
    batches = windowed([400], 4, 4)
    firsts = Counter()
    for number in range(25):
        means = [
            np.mean([batches.costs[0][pack.pack] for pack in batches[number * 4 + place]])
            for place in range(4)
        ]
        firsts[int(np.argmin(means))] += 1
    assert set(firsts) == {0, 1, 2, 3}


@given(SIZES, st.integers(1, 4), st.integers(1, 3), st.integers(0, 12))
def test_what_is_left_out_is_what_no_step_used_of_the_epochs_begun(sizes, size, window, steps):
    documents = documents_of(sizes)
    costs = tuple(np.arange(len(plan)) % 3 + 1.0 for plan in documents)
    for batches in (
        Batches(documents, size, 0),
        WindowedBatches(documents, size, 0, window, costs),
    ):
        used = {pack for step in range(steps) for pack in batches[step]}
        begun = math.ceil(batches.epochs_before(steps))
        line = [PackId(e, p) for e in range(begun) for p in range(batches.size(e))]
        left = batches.left_out(steps)
        assert len(left) == len(set(left))
        assert {pack for pack in line if pack not in used} == set(left)
