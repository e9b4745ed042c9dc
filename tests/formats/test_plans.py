import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun.errors import InputError
from longrun.formats.plans import PackPlan, PackSet, PacksInfo, epoch_name, spread_packs


@pytest.fixture
def plan() -> PackPlan:
    return PackPlan(np.array([4, 0, 2, 1, 3]), np.array([0, 2, 3, 5]))


def make_pack_folder(folder, plan):
    prepared = folder / "prepared"
    for split in ("train", "validation"):
        (prepared / split).mkdir(parents=True)
    sources = {"paths": [], "modes": [], "first_lines": {}}
    (prepared / "sources.json").write_text(json.dumps(sources))
    packs = folder / "packs"
    packs.mkdir()
    PacksInfo(documents="../prepared", pack_size=8, num_epochs=2).save(packs)
    plan.save(packs, epoch_name(0))
    PackPlan(plan.documents[::-1], plan.starts).save(packs, epoch_name(1))
    PackPlan(np.zeros(0, np.int64), np.zeros(1, np.int64)).save(packs, "validation")
    return packs


def test_a_pack_is_a_slice_of_the_documents(plan):
    assert [plan[at].tolist() for at in range(len(plan))] == [[4, 0], [2], [1, 3]]


def test_a_pack_beyond_the_last_is_an_index_error(plan):
    with pytest.raises(IndexError):
        plan[3]
    with pytest.raises(IndexError):
        plan[-1]


def test_epochs_beyond_the_last_plan_begin_again(plan, tmp_path):
    packs = PackSet.open(make_pack_folder(tmp_path, plan))
    assert packs.pack_size == 8
    assert packs.plan(0)[0].tolist() == packs.plan(2)[0].tolist() == [4, 0]
    assert packs.plan(1)[0].tolist() == packs.plan(3)[0].tolist() == [3, 1]


def test_without_validation_its_plan_has_no_packs(plan, tmp_path):
    packs = PackSet.open(make_pack_folder(tmp_path, plan))
    assert len(packs.validation_plan) == 0
    assert len(packs.validation) == len(packs.training) == 0


def test_moved_together_packs_and_documents_still_find_each_other(plan, tmp_path):
    make_pack_folder(tmp_path, plan)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("prepared", "packs"):
        (tmp_path / name).rename(moved / name)
    assert PackSet.open(moved / "packs").source == moved / "prepared"


def test_documents_that_are_gone_are_named(plan, tmp_path):
    packs = make_pack_folder(tmp_path, plan)
    (tmp_path / "prepared").rename(tmp_path / "other")
    with pytest.raises(InputError, match=r"its documents are gone: .*prepared; run prepare again"):
        PackSet.open(packs)


def test_a_folder_that_is_not_of_pack_is_named(tmp_path):
    with pytest.raises(InputError, match=r"has no packs\.json; name the output of pack"):
        PackSet.open(tmp_path)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400), st.integers(1, 4), st.integers(1, 100), st.integers(0, 2**32 - 1))
def test_every_batch_has_its_share_of_packs_of_each_number_of_documents(packs, most, batch, seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, most, packs, endpoint=True)
    order = spread_packs(counts, rng)
    assert sorted(order.tolist()) == list(range(packs))
    of_count = np.bincount(counts, minlength=most + 1)
    shares = of_count / max(packs, 1)
    # Two strata are cut, of every count; what they move the batch by is shared by all counts.
    slack = 2 + 2 * np.count_nonzero(of_count) * shares
    for begin in range(0, packs - batch + 1, batch):
        found = np.bincount(counts[order[begin : begin + batch]], minlength=most + 1)
        assert (np.abs(found - batch * shares) <= slack).all()


def test_every_pack_comes_everywhere_equally_often():
    counts = np.array([1, 1, 1, 1, 2, 2, 3])
    places = np.zeros((7, 7))
    for seed in range(4_000):
        places[spread_packs(counts, np.random.default_rng(seed)), np.arange(7)] += 1
    assert places.min() > 0
    # The mean of 4,000 uniform places is off by 0.032 in one of three cases.
    assert np.allclose(places @ np.arange(7) / 4_000, 3, atol=0.16)
