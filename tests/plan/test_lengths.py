"""The lengths that a plan is made for: drawn ones, and those of real packs."""

import json
from pathlib import Path

import numpy as np
import pytest

from longrun.errors import InputError
from longrun.formats.documents import LINEAGE, ShardContent, write_index
from longrun.formats.plans import PackPlan, PacksInfo
from longrun.formats.text.spans import SpanKind
from longrun.plan.lengths import NUM_BATCHES, find_workload
from longrun.plan.settings import PlanSettings
from longrun.training.batches import Batches


def settings(**values: object) -> PlanSettings:
    return PlanSettings.parse({"model": "7b", **values}, "plan")


def test_drawn_packs_are_full_and_as_long_as_said():
    workload = find_workload(settings(global_batch_size=64))
    assert len(workload.batches) == NUM_BATCHES
    assert all(len(batch) == 64 for batch in workload.batches)
    assert workload.tokens_per_step / (64 * 32768) > 0.98
    assert workload.lengths.mean() == pytest.approx(7500, rel=0.1)
    squares = workload.lengths.astype(float) ** 2
    assert workload.effective_length == pytest.approx(squares.sum() / workload.lengths.sum())


def test_drawn_lengths_depend_on_the_seed_alone():
    one, two, other = (
        find_workload(settings(global_batch_size=16, seed=seed)) for seed in (0, 0, 1)
    )
    assert np.array_equal(one.lengths, two.lengths)
    assert not np.array_equal(one.lengths, other.lengths)


def test_documents_of_one_length_are_drawn_without_spread():
    workload = find_workload(settings(global_batch_size=4, sigma=0, mean_tokens=1024))
    assert set(workload.lengths.tolist()) == {1024}
    assert workload.effective_length == 1024


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ({}, None),
        ({"max_steps": 7}, 7),
        ({"documents": 100_000, "sigma": 0, "mean_tokens": 8192}, 100_000 // 4 // 16),
        ({"documents": 100_000, "sigma": 0, "mean_tokens": 8192, "max_steps": 50}, 50),
        ({"documents": 1000, "sigma": 0, "mean_tokens": 8192, "max_epochs": 3}, 750 // 16),
    ],
    ids=str,
)
def test_steps_are_the_smaller_of_both_bounds(values, steps):
    found = find_workload(settings(global_batch_size=16, **values)).num_steps
    assert found is steps or found == pytest.approx(steps, abs=1)


LENGTHS = [30, 20, 10, 40, 24, 64, 5, 7]
PACKS = [[0, 1, 2], [3, 4], [5], [6, 7]]


@pytest.fixture(scope="module")
def packs(tmp_path_factory) -> Path:
    """Four packs of 64 tokens over eight documents of one span each."""
    folder = tmp_path_factory.mktemp("prepared")
    for name, lengths in (("train", LENGTHS), ("validation", [])):
        (folder / name).mkdir()
        if lengths:
            np.zeros(sum(lengths), "<i4").tofile(folder / name / "00000.bin")
            kinds = np.full(len(lengths), SpanKind.ANSWER, np.int8)
            firsts = np.arange(len(lengths) + 1)
            lineage = np.zeros(len(lengths), LINEAGE)
            content = ShardContent(np.array(lengths, np.int32), kinds, firsts, lineage)
            write_index(folder / name, "00000", content)
    sources = {"paths": ["raw.jsonl"], "modes": ["cot"], "first_lines": {"00000": 1}}
    (folder / "sources.json").write_text(json.dumps(sources))
    (folder / "packs").mkdir()
    starts = np.cumsum([0, *map(len, PACKS)])
    PackPlan(np.concatenate(PACKS), starts).save(folder / "packs", "epoch-000")
    PackPlan(np.zeros(0, np.int64), np.zeros(1, np.int64)).save(folder / "packs", "validation")
    PacksInfo(documents="..", pack_size=64, num_epochs=1, num_packs=[4]).save(folder / "packs")
    return folder / "packs"


def test_real_packs_come_in_the_batches_of_training(packs):
    workload = find_workload(settings(packs=packs, global_batch_size=2))
    assert (workload.pack_size, workload.num_steps) == (64, 2)
    order = Batches((np.array([len(pack) for pack in PACKS]),), 2, 0)
    expected = [[[LENGTHS[d] for d in PACKS[pack.pack]] for pack in order[step]] for step in (0, 1)]
    assert [[documents.tolist() for documents in batch] for batch in workload.batches] == expected
    assert workload.tokens_per_step == sum(LENGTHS) / 2


def test_a_batch_larger_than_all_packs_is_refused(packs):
    with pytest.raises(InputError, match="4 packs are fewer than a batch of 9; lower"):
        find_workload(settings(packs=packs, global_batch_size=9))


def test_packs_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"packs\.json"):
        find_workload(settings(packs=tmp_path))
