import json

import numpy as np
import pytest

from longrun.errors import InputError
from longrun.formats.plans import PackPlan, PackSet, PacksInfo, epoch_name


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
