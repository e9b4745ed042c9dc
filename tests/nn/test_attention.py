"""The attention op as an op, and the choice of its backend."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from longrun.errors import ConfigError
from longrun.nn.attention import (
    Boundaries,
    PackedAttention,
    attend,
    attend_backward,
    choose_backend,
)
from longrun.nn.kernels import KERNELS
from longrun.nn.pack import build_pack

CU_Q = torch.tensor([0, 3, 4, 9], dtype=torch.int32)
CU_K = torch.tensor([0, 5, 6, 11], dtype=torch.int32)


def draw(requires_grad: bool = True) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(9, 4, 8), (11, 2, 8), (11, 2, 8)]
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(requires_grad)
        for shape in shapes
    ]


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_passes_gradcheck(backend):
    torch.autograd.gradcheck(
        lambda q, k, v: attend(q, k, v, CU_Q, CU_K, 5, 5, 0.3, backend)[0], draw()
    )


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_keeps_the_promises_of_a_custom_op(backend):
    q, k, v = draw()
    rest = (CU_Q, CU_K, 5, 5, 0.3, backend)
    torch.library.opcheck(attend, (q, k, v, *rest))
    q, k, v = draw(requires_grad=False)
    out, lse = attend(q, k, v, *rest)
    torch.library.opcheck(attend_backward, (torch.ones_like(out), q, k, v, out, lse, *rest))


def test_takes_strided_inputs():
    q, k, v = draw(requires_grad=False)
    rest = (CU_Q, CU_K, 5, 5, 0.3, "sdpa")
    wide = [torch.cat((x, x), -1)[..., :8] for x in (q, k, v)]
    torch.testing.assert_close(attend(*wide, *rest)[0], attend(q, k, v, *rest)[0])


def test_takes_the_boundaries_of_whole_documents():
    tokens = [(np.zeros(n, np.int32), np.zeros(n, np.float32)) for n in (4, 2)]
    layout = build_pack(tokens, multiple_of=4)
    where = Boundaries.of(layout, "sdpa")
    assert where.cu_q.tolist() == where.cu_k.tolist() == layout.cu_seqlens.tolist()
    assert where.max_q == where.max_k == 4
    assert Boundaries.of(layout.to("meta"), "sdpa").cu_q.device.type == "cpu"
    assert Boundaries.of(layout.to("meta"), "torch_varlen").cu_q.device.type == "meta"


def test_scales_the_scores_by_the_root_of_the_head():
    q, k, v = draw(requires_grad=False)
    where = Boundaries(CU_Q, CU_K, 5, 5)
    out = PackedAttention("sdpa", head_dim=8)(q, k, v, where)
    assert torch.equal(out, attend(q, k, v, CU_Q, CU_K, 5, 5, 8**-0.5, "sdpa")[0])


def test_auto_takes_sdpa_on_the_cpu_and_says_so(caplog):
    caplog.set_level(logging.INFO)
    assert choose_backend("auto", torch.device("cpu"), torch.float32, 64) == "sdpa"
    assert "attention backend: sdpa (cpu, torch.float32, head_dim 64)" in caplog.text


@pytest.mark.parametrize("name", ["reference", "sdpa"])
def test_takes_a_backend_by_name(name):
    assert choose_backend(name, torch.device("cpu"), torch.float32, 64) == name


def test_refuses_an_unknown_backend():
    with pytest.raises(ConfigError, match="'flash' is unknown; known: auto, reference, sdpa"):
        choose_backend("flash", torch.device("cpu"), torch.float32, 64)


def test_computes_with_a_chosen_backend_only():
    with pytest.raises(
        ConfigError, match="'auto' is not one of reference, sdpa, torch_varlen, fa4"
    ):
        PackedAttention("auto", head_dim=8)


@pytest.mark.parametrize("name", ["torch_varlen", "fa4", "cudnn"])
def test_refuses_a_backend_that_cannot_run_here_instead_of_replacing_it(name):
    problem = f"attention={name} cannot run here: it needs a CUDA device, not cpu; here run: "
    with pytest.raises(ConfigError, match=f"{problem}reference, sdpa"):
        choose_backend(name, torch.device("cpu"), torch.bfloat16, 64)


def pretend_all_kernels_run(monkeypatch):
    """Let every kernel but cuDNN with shares pass for one that runs; none is called."""
    for name, kernel in KERNELS.items():

        def obstacle(place, name=name):
            return "it takes no shares" if place.shares and name == "cudnn" else None

        monkeypatch.setitem(KERNELS, name, replace(kernel, obstacle=obstacle))


def test_auto_takes_what_was_measured_fastest_and_logs_the_times(monkeypatch, caplog):
    pretend_all_kernels_run(monkeypatch)
    caplog.set_level(logging.INFO)
    asked = []

    def measure(names):
        asked.extend(names)
        return {"sdpa": 4.0, "torch_varlen": 2.0, "cudnn": 1.25}

    device = torch.device("cpu")
    assert choose_backend("auto", device, torch.bfloat16, 64, measure=measure) == "cudnn"
    assert asked == ["sdpa", "torch_varlen", "fa4", "cudnn"]
    assert "sdpa 4 ms, torch_varlen 2 ms, cudnn 1.25 ms" in caplog.text
    assert choose_backend("auto", device, torch.bfloat16, 64) == "torch_varlen"


def test_auto_measures_only_what_takes_shares_of_documents(monkeypatch):
    pretend_all_kernels_run(monkeypatch)
    device, asked = torch.device("cpu"), []
    choose_backend(
        "auto",
        device,
        torch.bfloat16,
        64,
        shares=True,
        measure=lambda names: asked.extend(names) or {"fa4": 1.0},
    )
    assert "cudnn" not in asked
    with pytest.raises(ConfigError, match="attention=cudnn cannot run here: it takes no shares"):
        choose_backend("cudnn", device, torch.bfloat16, 64, shares=True)
