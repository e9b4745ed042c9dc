import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun.data.packs.packing import pack
from longrun.data.packs.packing_loops import (
    fill_exactly,
    fit_best,
    fit_next,
    run_loop,
    shuffle_inside,
)
from longrun.formats.plans import spread_packs

STRATEGIES = ["random-exact", "best-fit", "sequential", "none"]
SIZES = st.integers(1, 40).flatmap(
    lambda size: st.tuples(st.just(size), st.lists(st.integers(1, size), max_size=60))
)


def realistic(count: int, seed: int = 0, pack_size: int = 32768) -> np.ndarray:
    """Draw log-normal lengths around 7,000 tokens, as long worked solutions have."""
    rng = np.random.default_rng(seed)
    drawn = np.exp(rng.normal(np.log(6000), 0.75, 3 * count))
    return drawn[(drawn > 200) & (drawn < pack_size)][:count].astype(np.int32)


def sums(lengths, packing) -> np.ndarray:
    return np.add.reduceat(lengths[packing.documents].astype(np.int64), packing.starts[:-1])


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(deadline=None, max_examples=150)
@given(case=SIZES, seed=st.integers(0, 3))
def test_nothing_is_lost_repeated_split_or_too_long(strategy, case, seed):
    pack_size, lengths = case
    lengths = np.array(lengths, np.int32)
    packing = pack(lengths, pack_size, strategy, (seed, 0))
    assert sorted(packing.documents.tolist()) == list(range(len(lengths)))
    assert packing.starts[0] == 0
    assert packing.starts[-1] == len(lengths)
    assert (np.diff(packing.starts) > 0).all()
    if len(lengths):
        assert sums(lengths, packing).max() <= pack_size
    again = pack(lengths, pack_size, strategy, (seed, 0))
    assert np.array_equal(packing.documents, again.documents)
    assert np.array_equal(packing.starts, again.starts)


def test_random_exact_fills_packs_and_mixes_lengths():
    lengths = realistic(15_000)
    packing = pack(lengths, 32768, "random-exact", (0, 0))
    tokens = sums(lengths, packing)
    assert tokens.sum() / (len(tokens) * 32768) > 0.997
    assert (tokens == 32768).mean() > 0.75
    means = tokens / np.diff(packing.starts)
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.05


def test_the_length_of_a_document_says_nothing_of_its_place():
    lengths = realistic(5_000)
    for strategy in ("random-exact", "best-fit"):
        packing = pack(lengths, 32768, strategy, (0,))
        sizes = np.diff(packing.starts)
        ordered = lengths[packing.documents]
        places = np.arange(len(ordered)) - np.repeat(packing.starts[:-1], sizes)
        inside = places / np.maximum(1, np.repeat(sizes, sizes) - 1)
        several = np.repeat(sizes, sizes) > 1
        assert abs(np.corrcoef(inside[several], ordered[several])[0, 1]) < 0.05
        means = np.add.reduceat(ordered, packing.starts[:-1]) / sizes
        assert abs(np.corrcoef(np.arange(len(sizes)), means)[0, 1]) < 0.05


def test_batches_hold_equally_many_documents():
    sizes = np.random.default_rng(0).integers(1, 9, 4096)
    order = spread_packs(sizes, np.random.default_rng(1))
    batches = sizes[order].reshape(16, 256).sum(axis=1)
    assert batches.std() / batches.mean() < 0.005
    shuffled = np.random.default_rng(1).permutation(sizes).reshape(16, 256).sum(axis=1)
    assert shuffled.std() / shuffled.mean() > 0.02


def test_best_fit_is_as_good_as_decreasing_lengths_can_be():
    lengths = realistic(5_000)
    packing = pack(lengths, 32768, "best-fit", (0, 0))
    least = -(-int(lengths.sum()) // 32768)
    assert len(packing.starts) - 1 <= least * 1.005


def test_best_fit_takes_the_least_room_that_is_enough():
    # 9 and 8 open packs with 1 and 2 left; 2 fits only the second, 1 fits the first best.
    assert fit_best([9, 8, 2, 1], range(4), 10) == [0, 1, 1, 0]


def test_sequential_keeps_the_order_and_closes_at_the_first_misfit():
    assert fit_next([4, 6, 3, 8, 2], 10) == [0, 2, 3, 5]
    packing = pack(np.array([4, 6, 3, 8, 2], np.int32), 10, "sequential", (0,))
    assert packing.documents.tolist() == [0, 1, 2, 3, 4]


def test_the_trace_of_the_module_docstring():
    documents, starts = fill_exactly([4, 3, 6, 3, 7, 4, 3], range(7), [0.0] * 7, 10)
    assert documents == [0, 1, 3, 2, 5, 4, 6]
    assert starts == [0, 3, 5, 7]


def test_every_epoch_and_seed_has_its_own_packs():
    lengths = realistic(300)
    plans = {
        seed: pack(lengths, 32768, "random-exact", seed).documents.tolist()
        for seed in ((0, 0), (0, 1), (1, 0))
    }
    assert len({tuple(plan) for plan in plans.values()}) == 3


def test_compiled_loops_do_the_same_as_interpreted_ones(monkeypatch):
    lengths = realistic(2_000)
    rng = np.random.default_rng(1)
    order, uniform = rng.permutation(len(lengths)), rng.random(len(lengths))
    starts = np.arange(0, len(lengths) + 1, 4)
    for loop, *arguments in (
        (fill_exactly, lengths, order, uniform, 32768),
        (fit_best, lengths, order, 32768),
        (fit_next, lengths, 32768),
        (shuffle_inside, order, starts, uniform),
    ):
        plain = run_loop(loop, *arguments)
        with monkeypatch.context() as many:
            many.setattr("longrun.data.packs.packing_loops.COMPILE_FROM", 0)
            fast = run_loop(loop, *arguments)
        if isinstance(plain, tuple):
            plain, fast = map(np.concatenate, (plain, fast))
        assert plain.dtype == fast.dtype == np.int64
        assert np.array_equal(plain, fast)


@pytest.mark.parametrize("lengths", [[11], [0], [3, -1]])
def test_lengths_outside_a_pack_are_refused(lengths):
    with pytest.raises(ValueError, match=r"lengths must be in 1 \.\. 10"):
        pack(np.array(lengths, np.int32), 10, "none", (0,))
