from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from longrun.data.packs.packing import pack
from longrun.parallel.layouts import Layout
from longrun.training.balance import (
    WORTH_DOCUMENTS,
    Deal,
    Ranks,
    deal,
    deal_batch,
    document_costs,
    exchange,
    pack_cost,
    pack_costs,
)

PACK_SIZE = 40
SHARE = 0.05
PACKS = st.lists(
    st.lists(st.integers(1, 20), min_size=1, max_size=4).filter(lambda x: sum(x) <= PACK_SIZE),
    min_size=1,
    max_size=24,
)
RANKS = st.sampled_from([Ranks(1), Ranks(2), Ranks(6), Ranks(6, 3), Ranks(4, 4), Ranks(8, 2)])
BALANCE = st.sampled_from(["auto", "packs", "documents"])


def arrays(packs: list[list[int]]) -> list[np.ndarray]:
    return [np.array(pack, np.int32) for pack in packs]


def realistic(num_packs: int, seed: int = 0) -> list[np.ndarray]:
    """Full packs of 32,768 tokens of log-normal documents of 7,500 tokens on average."""
    rng = np.random.default_rng(seed)
    drawn = rng.lognormal(np.log(7500) - 0.7**2 / 2, 0.7, 6 * num_packs)
    lengths = np.clip(drawn, 200, 32768).astype(np.int32)
    packing = pack(lengths, 32768, "random-exact", (seed,))
    packed = np.split(lengths[packing.documents], packing.starts[1:-1])
    return [documents for documents in packed if documents.sum() > 32000][:num_packs]


def test_the_cost_of_a_document_grows_with_the_square_of_its_length():
    assert pack_cost(np.array([10, 20]), 0.5) == 30 + 0.5 * (100 + 400)


@given(PACKS)
def test_the_costs_of_all_packs_are_those_of_each(packs):
    starts = np.cumsum([0, *map(len, packs)])
    found = pack_costs(np.concatenate(arrays(packs)), starts, SHARE)
    assert found == pytest.approx([pack_cost(pack, SHARE) for pack in arrays(packs)])


def test_a_plan_without_packs_has_no_costs():
    assert pack_costs(np.array([], np.int32), np.array([0]), SHARE).shape == (0,)


@given(st.lists(st.floats(0.1, 100), max_size=20), st.integers(1, 5))
def test_dealing_loses_and_doubles_nothing(costs, num_ranks):
    hands = deal(costs, num_ranks)
    assert len(hands) == num_ranks
    assert Counter(item for hand in hands for item in hand) == Counter(range(len(costs)))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
@example([1, 1, 2])
def test_two_ranks_work_at_most_a_sixth_longer_than_in_the_best_deal(costs):
    worst = max(sum(costs[item] for item in hand) for hand in deal(costs, 2))
    best = min(
        max(sum(c for c, r in zip(costs, ranks, strict=True) if r == side) for side in (0, 1))
        for ranks in product((0, 1), repeat=len(costs))
    )
    assert worst <= 7 / 6 * best


@given(st.lists(st.floats(0.1, 9), min_size=4, max_size=12))
def test_no_rank_gets_more_items_than_allowed(costs):
    most = -(-len(costs) // 4)
    hands = deal(costs, 4, most)
    exchanged = exchange(np.array(costs), hands, most)
    for dealt in (hands, exchanged):
        assert max(map(len, dealt)) <= most
        assert Counter(item for hand in dealt for item in hand) == Counter(range(len(costs)))


@given(st.lists(st.floats(0.1, 9), min_size=1, max_size=14), st.integers(1, 4))
def test_exchanging_never_makes_the_slowest_rank_slower(costs, num_ranks):
    items = np.array(costs)
    hands = [list(range(rank, len(costs), num_ranks)) for rank in range(num_ranks)]
    slowest = [
        max(items[hand].sum() for hand in dealt) for dealt in (exchange(items, hands), hands)
    ]
    assert slowest[0] <= slowest[1] * (1 + 1e-12)


def test_exchanging_finds_the_pair_that_evens_two_ranks_out():
    assert exchange(np.array([5.0, 4.0, 4.0, 3.0]), [[0, 1], [2, 3]]) == [[1, 2], [0, 3]]
    assert exchange(np.array([3.0, 1.0, 2.0]), [[0, 1, 2], []]) == [[1, 2], [0]]


@given(PACKS, RANKS, BALANCE)
def test_every_document_of_a_batch_is_computed_once_in_a_micro_step_that_fits(
    packs, ranks, balance
):
    lengths = np.concatenate(arrays(packs))
    dealt = deal_batch(arrays(packs), SHARE, ranks, balance, PACK_SIZE)
    steps = [tuple(dealt.documents([slot])) for slot in range(dealt.num_micro_steps)]
    assert len(dealt.hands) == ranks.size
    assert Counter(document for step in steps for document in step) == Counter(range(len(lengths)))
    assert all(0 < lengths[list(step)].sum() <= PACK_SIZE for step in steps)
    for rank, (hand, costs) in enumerate(zip(dealt.hands, dealt.costs, strict=True)):
        expected = [document_costs(lengths[list(step)], SHARE).sum() for step in hand]
        assert costs == pytest.approx(expected)
        assert list(hand) == steps[dealt.first_slot(rank) :][: len(hand)]


@given(PACKS, RANKS, BALANCE)
def test_the_deal_depends_on_its_arguments_alone(packs, ranks, balance):
    dealt = [deal_batch(arrays(packs), SHARE, ranks, balance, PACK_SIZE) for _ in range(2)]
    assert dealt[0] == dealt[1]


@given(PACKS, RANKS)
def test_whole_packs_stay_together(packs, ranks):
    ends = np.cumsum([len(pack) for pack in packs])
    expected = [tuple(range(end - len(p), end)) for end, p in zip(ends, packs, strict=True)]
    dealt = deal_batch(arrays(packs), SHARE, ranks, "packs", PACK_SIZE)
    assert sorted(step for hand in dealt.hands for step in hand) == expected


@given(PACKS, RANKS)
def test_auto_is_one_of_the_two_and_documents_only_where_they_save_enough(packs, ranks):
    batch = arrays(packs)
    auto, whole, single = (
        deal_batch(batch, SHARE, ranks, balance, PACK_SIZE)
        for balance in ("auto", "packs", "documents")
    )
    times = [dealt.imbalance(ranks.waiting) for dealt in (whole, single)]
    worth = (
        ranks.size > 1 and len(packs) > ranks.size and times[1] < (1 - WORTH_DOCUMENTS) * times[0]
    )
    assert auto == (single if worth else whole)


def test_ranks_that_wait_get_micro_steps_of_equal_cost_and_number():
    packs = arrays([[cost] for cost in (9, 1, 8, 2, 7, 3, 6, 4)])
    dealt = deal_batch(packs, 0.0, Ranks(4, 2), "packs", 10)
    assert {len(hand) for hand in dealt.hands} == {2}
    assert dealt.costs == ((9.0, 2.0), (8.0, 1.0), (7.0, 4.0), (6.0, 3.0))


def test_documents_of_like_length_stand_side_by_side_and_even_out_within_a_micro_step():
    dealt = deal_batch(arrays([[9, 5], [8, 4]]), 0.0, Ranks(2, 2), "documents", 14)
    # Documents 0 to 3 have 9, 5, 8 and 4 tokens; the slices are 9, 8 and 5, 4.
    assert dealt.hands == (((0, 3),), ((1, 2),))


@pytest.mark.parametrize(("per_rank", "bound"), [(4, 0.005), (2, 0.03)])
@pytest.mark.parametrize("share", [1.5e-5, 5e-5], ids=["32B", "1.5B"])
def test_a_realistic_batch_loses_little_when_documents_are_dealt(per_rank, bound, share):
    num_ranks = 32
    for seed in range(3):
        packs = realistic(per_rank * num_ranks, seed)
        dealt = deal_batch(packs, share, Ranks(num_ranks), "auto", 32768)
        assert 1 - 1 / dealt.imbalance() <= bound
        naive = np.array([pack_cost(pack, share) for pack in packs]).reshape(num_ranks, -1).sum(1)
        assert 1 - naive.mean() / naive.max() > 0.04


def test_a_group_of_eight_that_waits_in_every_micro_step_loses_little_too():
    packs, ranks = realistic(128), Ranks(64, 8)
    single = deal_batch(packs, 5e-5, ranks, "auto", 32768)
    whole = deal_batch(packs, 5e-5, ranks, "packs", 32768)
    assert 1 - 1 / single.imbalance(8) < 0.06
    assert 1 - 1 / whole.imbalance(8) > 0.12


def test_imbalance_counts_every_micro_step_where_ranks_wait_and_the_whole_step_where_not():
    dealt = Deal((((0,), (1,)), ((2,), (3,))), ((3.0, 1.0), (1.0, 3.0)))
    assert dealt.imbalance() == 1.0
    assert dealt.imbalance(2) == 6 / 4


@pytest.mark.parametrize(
    ("layout", "ranks"),
    [
        (Layout(num_ranks=8), Ranks(8)),
        (Layout(num_ranks=8, tensor=2, context=2, sharding="states"), Ranks(2)),
        (Layout(num_ranks=8, context=2, sharding="full"), Ranks(4, 4)),
        (Layout(num_ranks=16, context=2, sharding="full", shard_size=4), Ranks(8, 2)),
        (Layout(num_ranks=16, context=4, sharding="full", shard_size=4), Ranks(4, 1)),
        (Layout(num_ranks=16, context=4, sharding="full", shard_size=2), Ranks(4, 1)),
        (Layout(num_ranks=24, context=4, sharding="full", shard_size=6), Ranks(6, 3)),
    ],
    ids=str,
)
def test_only_full_sharding_makes_the_ranks_of_a_shard_group_wait(layout, ranks):
    assert Ranks.of(layout) == ranks
