"""Regrouping invariance: however a batch is spread, the loss and every gradient are the same.

The truth is one process with all documents in one pack, in float64. Every pair of the settings
below occurs together, and every triple of those that move data between processes.
"""

import itertools
import random
import runpy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from longrun.nn.architecture import Arch
from longrun.nn.weighted_document import WeightedDocument
from longrun.parallel.mesh import Mesh

pytestmark = pytest.mark.timeout(300)
"""Eight processes on a busy machine."""
ALONE = Mesh(0, 1, torch.device("cpu"), "none")
LENGTHS = (1, 31, 7, 16, 2, 13, 1)
"""Prime lengths, a document that fills a pack alone, documents shorter than the context axis."""
UNSUPERVISED, FILLER = (5,), 6
"""A document without loss, and one that stands for a pack of nothing but padding."""
ARCH = Arch(
    family="qwen3",
    vocab_size=64,
    hidden_size=24,
    intermediate_size=40,
    num_layers=2,
    num_heads=6,
    num_kv_heads=2,
    head_dim=8,
    norm_eps=1e-6,
    rope_theta=10_000.0,
    rope_scaling=None,
    qkv_bias=True,
    output_bias=True,
    qk_norm=True,
    tied=False,
    max_positions=64,
)
"""Six query heads: neither 4 nor 8 context ranks could divide them."""

LEVELS: dict[str, Sequence[Any]] = {
    "tensor": (1, 2),
    "context": (1, 2, 4),
    "sharding": ("replicate", "states", "full", "full in groups"),
    "micro_steps": (1, 2),
    "recompute": ("none", "pointwise", "all_but_attention", "full"),
    "tied": (False, True),
    "chunk_tokens": (1, 6, 1000),
}
MOVERS = ("tensor", "context", "sharding", "micro_steps")
GROUPS = [*itertools.combinations(LEVELS, 2), *itertools.combinations(MOVERS, 3)]
CASES_PER_START = 14
Row = dict[str, Any]
Combination = tuple[tuple[str, Any], ...]


def cover(levels: Mapping[str, Sequence[Any]], groups: Sequence[Sequence[str]]) -> list[Row]:
    """Return rows in which the columns of every group take every combination of their values.

    Greedy: of thirty candidates that hold a missing combination, the one that holds most.
    """
    rng = random.Random(0)
    missing = {target for group in groups for target in _combinations(levels, group)}
    rows: list[Row] = []
    while missing:
        candidates = [
            _candidate(levels, rng.choice(sorted(missing, key=repr)), rng) for _ in "x" * 30
        ]
        best = max(candidates, key=lambda row: sum(_has(row, target) for target in missing))
        rows.append(best)
        missing = {target for target in missing if not _has(best, target)}
    return rows


def _combinations(
    levels: Mapping[str, Sequence[Any]], group: Sequence[str]
) -> Iterator[Combination]:
    for values in itertools.product(*(levels[name] for name in group)):
        yield tuple(zip(group, values, strict=True))


def _candidate(levels: Mapping[str, Sequence[Any]], target: Combination, rng: random.Random) -> Row:
    return {name: rng.choice(list(values)) for name, values in levels.items()} | dict(target)


def _has(row: Row, target: Combination) -> bool:
    return all(row[name] == value for name, value in target)


def name_of(row: Row) -> str:
    return ", ".join(f"{key} {value}" for key, value in row.items())


ROWS = {name_of(row): row for row in cover(LEVELS, GROUPS)}
COMPILED = {
    f"compiled, {name_of(row)}": row
    for row in (
        {**dict.fromkeys(LEVELS), "tensor": 2, "context": 1, "sharding": "full", "micro_steps": 2}
        | {"recompute": "pointwise", "tied": True, "chunk_tokens": 6},
        {**dict.fromkeys(LEVELS), "tensor": 1, "context": 2, "sharding": "replicate"}
        | {"micro_steps": 2, "recompute": "none", "tied": False, "chunk_tokens": 6},
    )
}


def draw_documents() -> list[WeightedDocument]:
    rng = np.random.default_rng(0)
    documents = []
    for index, length in enumerate(LENGTHS):
        weights = rng.choice(np.array([0, 0.5, 1], np.float32), length)
        weights *= index not in (*UNSUPERVISED, FILLER)
        documents.append((rng.integers(0, 64, length).astype(np.int32), weights))
    return documents


def deal(data: int, micro_steps: int) -> list[list[list[int]]]:
    """Deal the documents to packs; packs that get none hold the filler."""
    packs: list[list[int]] = [[] for _ in range(data * micro_steps)]
    for index in range(len(LENGTHS) - 1):
        packs[index % len(packs)].append(index)
    filled = [pack or [FILLER] for pack in packs]
    return [filled[rank * micro_steps : (rank + 1) * micro_steps] for rank in range(data)]


def case_of(row: Row, size: int) -> dict[str, Any]:
    data = size // (row["tensor"] * row["context"])
    grouped = row["sharding"] == "full in groups"
    return {
        "arch": replace(ARCH, tied=row["tied"]),
        "deal": deal(data, row["micro_steps"]),
        "sharding": "full" if grouped else row["sharding"],
        "shard_size": 2 if grouped else None,
        "steps": 1,
        **{key: row[key] for key in ("tensor", "context", "recompute", "chunk_tokens")},
    }


@pytest.fixture(scope="module")
def outcomes(run_ranks) -> Callable[[str], list[dict[str, Any]]]:
    """Return what each of 8 ranks saw of a case; a few cases share a start."""
    names = list(ROWS)

    @cache
    def start(first: int) -> list[dict[str, dict[str, Any]]]:
        cases = {name: case_of(ROWS[name], 8) for name in names[first : first + CASES_PER_START]}
        return run_ranks("steps.py", 8, cases, draw_documents())

    def outcome(name: str) -> list[dict[str, Any]]:
        first = names.index(name) // CASES_PER_START * CASES_PER_START
        return [rank[name] for rank in start(first)]

    return outcome


@pytest.fixture(scope="module")
def alone() -> Callable[[bool], dict[str, Any]]:
    """Return the truth of a tied or untied model: one process, one pack."""
    script = Path(__file__).parent / "ranks" / "steps.py"

    @cache
    def outcome(tied: bool) -> dict[str, Any]:
        case = {"arch": replace(ARCH, tied=tied), "deal": [[range(len(LENGTHS))]], "steps": 1}
        return runpy.run_path(str(script))["run"](ALONE, {"": case}, draw_documents())[""]

    return outcome


def assert_same(got: dict[str, Any], want: dict[str, Any]) -> None:
    assert got["losses"] == pytest.approx(want["losses"], rel=1e-12)
    assert got["norms"] == pytest.approx(want["norms"], rel=1e-11)
    [ours], [theirs] = got["gradients"], want["gradients"]
    assert ours.keys() == theirs.keys()
    for key, gradient in theirs.items():
        assert gradient.any(), key
        torch.testing.assert_close(ours[key], gradient, rtol=1e-9, atol=1e-12, msg=key)


def started_together() -> list[Any]:
    """Mark the cases of one start, so that they stay in one worker."""
    return [
        pytest.param(name, marks=pytest.mark.xdist_group(f"laws {index // CASES_PER_START}"))
        for index, name in enumerate(ROWS)
    ]


@pytest.mark.parametrize("name", started_together())
def test_eight_processes_equal_one(outcomes, alone, name):
    for got in outcomes(name):
        assert_same(got, alone(ROWS[name]["tied"]))


@pytest.mark.parametrize("name", COMPILED)
def test_two_compiled_processes_equal_one(run_ranks, alone, name):
    row = COMPILED[name]
    cases = {name: {**case_of(row, 2), "compiled": True}}
    for got in run_ranks("steps.py", 2, cases, draw_documents(), compiles=True):
        assert_same(got[name], alone(row["tied"]))


def test_a_cover_holds_every_combination_of_its_groups():
    for group in GROUPS:
        seen = {tuple(row[name] for name in group) for row in ROWS.values()}
        assert seen == set(itertools.product(*(LEVELS[name] for name in group)))
