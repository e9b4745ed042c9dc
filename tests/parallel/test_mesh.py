"""The mesh alone and on real processes."""

import pytest
import torch

from longrun.errors import LaunchError
from longrun.parallel.mesh import (
    all_agree,
    any_rank,
    barrier,
    broadcast_object,
    start_mesh,
    stop_mesh,
    sum_over_ranks,
)


@pytest.fixture(scope="module")
def ranks(run_ranks):
    return run_ranks("collectives.py", 3)


@pytest.fixture
def no_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_knows_its_place(ranks):
    assert [result["mesh"] for result in ranks] == [(rank, 3, "cpu", "gloo") for rank in range(3)]


def test_sums_in_float64_and_equally_on_every_rank(ranks):
    assert all(result["sums"] == ranks[0]["sums"] for result in ranks)
    tenths, rank_sum, large = ranks[0]["sums"]
    assert tenths == pytest.approx(0.3, rel=1e-15)
    assert rank_sum == 3
    assert large == 3 * 2.0**53 + 6


def test_knows_whether_any_rank_raised_its_flag(ranks):
    assert all(result["any"] == (True, False) for result in ranks)


def test_gives_rank_0s_object_to_all(ranks):
    assert all(result["broadcast"] == {"rank": 0, "list": [1, "a"]} for result in ranks)


def test_names_the_ranks_that_differ_and_shows_where(ranks):
    for result in ranks:
        assert result["agree"] is None
        assert "rank 0, 1: 'xxx" in result["differ"]
        assert "seed 0'; rank 2: 'xxx" in result["differ"]
        assert "seed 1' (from character" in result["differ"]


def test_is_alone_without_torchrun(no_torchrun):
    mesh = start_mesh()
    barrier()
    all_agree("anything")
    assert (mesh.rank, mesh.size, mesh.backend) == (0, 1, "none")
    assert sum_over_ranks([1.5, 2.0]) == [1.5, 2.0]
    assert any_rank(True)
    assert not any_rank(False)
    assert broadcast_object("x") == "x"
    stop_mesh()
    assert not torch.distributed.is_initialized()


def test_refuses_half_of_torchruns_environment(no_torchrun):
    no_torchrun.setenv("RANK", "0")
    no_torchrun.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(LaunchError, match="WORLD_SIZE, LOCAL_RANK, MASTER_PORT not set"):
        start_mesh()
