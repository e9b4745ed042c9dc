"""Data parallelism by itself: dtypes, clipping, weights in and out, on two and four processes."""

import math
import runpy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from longrun.errors import ConfigError
from longrun.nn.architecture import Arch
from longrun.nn.decoder import Decoder
from longrun.nn.pack import build_pack
from longrun.nn.weighted_document import WeightedDocument
from longrun.parallel.data import Replicated
from longrun.parallel.mesh import Mesh

pytestmark = pytest.mark.xdist_group("data")
ALONE = Mesh(0, 1, torch.device("cpu"), "none")
LENGTHS = (5, 2, 17, 9, 6)
UNSUPERVISED = 4
"""The document that carries no loss at all."""

DEALS = {
    "equal": [[[0, 1]], [[2, 3, 4]]],
    "nothing supervised on rank 1": [[[0, 1, 2, 3]], [[4]]],
    "two micro-steps": [[[3], [0, 4]], [[4], [1, 2]]],
    "unequal micro-steps": [[[0], [1], [2]], [[3, 4]]],
}
FOUR_RANKS = [[[0, 1]], [[4]], [[2]], [[3, 4]]]
FLOAT32 = {"dtype": torch.float32, "compute_dtype": torch.float32}
MAX_NORM = 0.01


def arch(tied: bool) -> Arch:
    return Arch(
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
        qk_norm=True,
        tied=tied,
        max_positions=64,
    )


def build_cases() -> dict[str, dict[str, Any]]:
    cases: dict[str, dict[str, Any]] = {}
    for tied in (False, True):
        base = {"arch": arch(tied)}
        kind = "tied" if tied else "untied"
        for deal, packs in DEALS.items():
            cases[f"replicate, {kind}, {deal}"] = {**base, "sharding": "replicate", "deal": packs}
            if "unequal" not in deal:
                cases[f"full, {kind}, {deal}"] = {**base, "sharding": "full", "deal": packs}
        again = {**base, "deal": DEALS["two micro-steps"]}
        for sharding in ("replicate", "states", "full"):
            cases[f"{sharding}, {kind}, float32"] = {**again, "sharding": sharding, **FLOAT32}
            cases[f"{sharding}, {kind}, clipped"] = {
                **again,
                "sharding": sharding,
                "max_norm": MAX_NORM,
            }
    mixed = {"dtype": torch.float32, "compute_dtype": torch.bfloat16, "arch": arch(tied=True)}
    for sharding in ("replicate", "states", "full"):
        four = {"arch": arch(tied=True), "sharding": sharding, "deal": FOUR_RANKS}
        cases[f"{sharding}, tied, four ranks"] = four
        deal = {"sharding": sharding, "deal": DEALS["equal"]}
        cases[f"{sharding}, tied, bfloat16"] = {**mixed, **deal, "steps": 1}
    return cases


CASES = build_cases()
EXACT = [name for name in CASES if "float" not in name]


def draw_documents() -> list[WeightedDocument]:
    rng = np.random.default_rng(0)
    documents = []
    for index, length in enumerate(LENGTHS):
        weights = rng.choice(np.array([0, 0.5, 1], np.float32), length)
        weights *= index != UNSUPERVISED
        documents.append((rng.integers(0, 61, length).astype(np.int32), weights))
    return documents


@pytest.fixture(scope="module")
def outcomes(run_ranks) -> Callable[[str], list[dict[str, Any]]]:
    """Return what each rank saw of a case; all cases of one number of ranks share a start."""

    @cache
    def start(size: int) -> list[dict[str, dict[str, Any]]]:
        cases = {name: case for name, case in CASES.items() if len(case["deal"]) == size}
        return run_ranks("steps.py", size, cases, draw_documents())

    return lambda name: [rank[name] for rank in start(len(CASES[name]["deal"]))]


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    """Take the same steps in one process with all documents in one pack."""
    script = Path(__file__).parent / "ranks" / "steps.py"
    cases = {
        name: {**case, "deal": [[range(len(LENGTHS))]], "sharding": "replicate"}
        for name, case in CASES.items()
    }
    return runpy.run_path(str(script))["run"](ALONE, cases, draw_documents())


@pytest.mark.parametrize("name", EXACT)
def test_loss_and_every_gradient_equal_those_of_one_process(outcomes, alone, name):
    want = alone[name]
    for got in outcomes(name):
        assert got["losses"] == pytest.approx(want["losses"], rel=1e-12)
        assert got["norms"] == pytest.approx(want["norms"], rel=1e-11)
        for ours, theirs in zip(got["gradients"], want["gradients"], strict=True):
            assert ours.keys() == theirs.keys()
            for key, gradient in theirs.items():
                assert gradient.any(), key
                torch.testing.assert_close(ours[key], gradient, rtol=1e-9, atol=1e-12, msg=key)


@pytest.mark.parametrize("name", [name for name in CASES if "float32" in name])
def test_float32_agrees_to_rounding(outcomes, alone, name):
    want = alone[name]
    for got in outcomes(name):
        assert got["losses"] == pytest.approx(want["losses"], rel=1e-6)
        assert got["norms"] == pytest.approx(want["norms"], rel=1e-5)


@pytest.mark.parametrize("name", [name for name in CASES if "bfloat16" in name])
def test_bfloat16_reduces_in_float32(outcomes, alone, name):
    want = alone[name]
    for got in outcomes(name):
        assert got["losses"] == pytest.approx(want["losses"], rel=1e-2)
        [ours], [theirs] = got["gradients"], want["gradients"]
        for key, gradient in theirs.items():
            assert ours[key].dtype == torch.float32
            assert (ours[key] - gradient).norm() < 0.05 * gradient.norm() + 1e-4, key
            assert not torch.equal(ours[key], ours[key].bfloat16().float()), key


@pytest.mark.parametrize("name", CASES)
def test_every_rank_gathers_the_whole_weights(outcomes, alone, name):
    first, *others = (rank["weights"] for rank in outcomes(name))
    for other in others:
        assert all(torch.equal(other[key], weight) for key, weight in first.items())
    assert ("lm_head.weight" in first) is ("untied" in name)
    assert first.keys() == alone[name]["weights"].keys()
    if name in EXACT:
        for key, weight in alone[name]["weights"].items():
            torch.testing.assert_close(first[key], weight, rtol=1e-10, atol=1e-12, msg=key)


@pytest.mark.parametrize("name", CASES)
def test_every_rank_loads_the_weights_of_rank_0_exactly(outcomes, name):
    weights = outcomes(name)[0]["weights"]
    for got in (rank["loaded"] for rank in outcomes(name)):
        assert got.keys() == weights.keys()
        assert all(torch.equal(got[key], weight + 1) for key, weight in weights.items())


@pytest.mark.parametrize("name", CASES)
def test_every_rank_refuses_weights_that_do_not_fit(outcomes, name):
    for rank in outcomes(name):
        shape, missing, unknown = rank["refusals"]
        assert "model.norm.weight has shape (5,), the model wants (24,)" in shape
        assert "missing: model.norm.weight; unknown: none" in missing
        assert "missing: none; unknown: lm_head.bias" in unknown


def test_full_sharding_halves_what_a_rank_holds(outcomes):
    for kind in ("tied", "untied"):
        shares = [rank["local_elements"] for rank in outcomes(f"full, {kind}, equal")]
        whole = outcomes(f"replicate, {kind}, equal")[0]["local_elements"]
        assert sum(shares) == whole
        assert max(shares) < 0.55 * whole


@pytest.mark.parametrize("name", [name for name in CASES if "clipped" in name])
def test_clips_to_the_bound_and_returns_the_norm_before(outcomes, name):
    for got in outcomes(name):
        for norm, gradients in zip(got["norms"], got["gradients"], strict=True):
            squares = sum(float(gradient.square().sum()) for gradient in gradients.values())
            assert norm > MAX_NORM
            assert math.sqrt(squares) == pytest.approx(MAX_NORM, rel=1e-9)


def build_alone() -> Decoder:
    model = Decoder(arch(tied=True), backend="sdpa")
    model.initialise(seed=0, std=0.3)
    return model


def test_one_process_gives_plain_gradients_and_sums_micro_steps():
    model, plain = build_alone(), build_alone()
    documents = draw_documents()
    plain.loss(build_pack(documents)).backward()
    distributed = Replicated(model, ALONE)
    for _ in range(2):
        distributed.begin_step()
        for index, document in enumerate(documents):
            distributed.begin_micro_step(index == len(documents) - 1)
            distributed.model.loss(build_pack([document])).backward()
            distributed.end_backward(last=index == len(documents) - 1)
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def backward(distributed) -> None:
    distributed.begin_step()
    distributed.model.loss(build_pack(draw_documents())).backward()


def test_refuses_to_go_on_when_a_gradient_was_replaced():
    distributed = Replicated(build_alone(), ALONE)
    backward(distributed)
    distributed.model.zero_grad(set_to_none=True)
    with pytest.raises(RuntimeError, match="gradient was replaced"):
        distributed.end_backward(last=True)


def test_leaves_gradients_alone_below_the_bound_and_when_the_norm_is_not_finite():
    distributed = Replicated(build_alone(), ALONE)
    backward(distributed)
    before = [parameter.grad.clone() for parameter in distributed.model.parameters()]
    norm = distributed.clip_gradients(math.inf)
    assert distributed.clip_gradients(norm * 1.01) == norm
    for old, parameter in zip(before, distributed.model.parameters(), strict=True):
        assert torch.equal(old, parameter.grad)
    distributed.model.model.norm.weight.grad[0] = math.inf
    assert distributed.clip_gradients(1.0) == math.inf
    assert torch.equal(distributed.model.lm_head.weight.grad, before[0])


def test_refuses_a_bound_that_is_not_positive():
    distributed = Replicated(build_alone(), ALONE)
    backward(distributed)
    with pytest.raises(ConfigError, match="bound is 0"):
        distributed.clip_gradients(0)
