"""The CUDA backends of attention against the reference, forward and backward."""

import pytest
import torch
from torch import Tensor

from longrun.nn.attention import attend, attend_backward, choose_backend
from longrun.nn.kernels import KERNELS, KernelRequest
from longrun.nn.probe import Heads, time_backends

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # torch calls the variable that keeps cuDNN from building a plan per length experimental
    pytest.mark.filterwarnings("ignore:TORCH_CUDNN_SDPA_AVOID_RECOMPILE"),
    # the compiler of FlashAttention 4 warns about that package's own arguments
    pytest.mark.filterwarnings("ignore:Argument aux_data"),
]

DOCUMENTS = [(7, 7), (1, 1), (133, 133), (300, 300)]
SHARES = [(3, 7), (0, 5), (1, 1), (20, 133), (64, 64), (129, 300)]
"""(queries, keys) of every document, as when another process holds the other queries."""
CASES = [
    ("sdpa", torch.float32, 1e-4),
    ("sdpa", torch.bfloat16, 3e-2),
    ("torch_varlen", torch.bfloat16, 3e-2),
    ("torch_varlen", torch.float16, 4e-3),
    ("fa4", torch.bfloat16, 3e-2),
    ("fa4", torch.float16, 4e-3),
    ("cudnn", torch.bfloat16, 3e-2),
    ("cudnn", torch.float16, 4e-3),
]
FUSED = ["sdpa", "torch_varlen", "fa4", "cudnn"]


def skip_unless_it_runs(
    backend: str, dtype: torch.dtype = torch.bfloat16, head_dim: int = 64, shares: bool = False
) -> None:
    request = KernelRequest(torch.device("cuda", 0), dtype, head_dim, shares)
    obstacle = KERNELS[backend].obstacle(request)
    if obstacle is not None:
        pytest.skip(f"{backend}: {obstacle}")


def draw(
    segments: list[tuple[int, int]], heads: tuple[int, int], head_dim: int, backend: str
) -> tuple[list[Tensor], tuple[Tensor, Tensor, int, int]]:
    generator = torch.Generator().manual_seed(1)
    counts_q, counts_k = zip(*segments, strict=True)
    shapes = [(sum(counts_q), heads[0]), (sum(counts_k), heads[1]), (sum(counts_k), heads[1])]
    inputs = [
        torch.randn(*shape, head_dim, generator=generator, dtype=torch.float64).cuda()
        for shape in shapes
    ]
    place = "cuda" if KERNELS[backend].device_boundaries else "cpu"
    cu_q, cu_k = (
        torch.tensor([0, *counts]).cumsum(0).to(place, torch.int32)
        for counts in (counts_q, counts_k)
    )
    return inputs, (cu_q, cu_k, max(counts_q), max(counts_k))


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
@pytest.mark.parametrize("segments", [DOCUMENTS, SHARES])
@pytest.mark.parametrize(("backend", "dtype", "tolerance"), CASES)
def test_equals_the_reference_forward_and_backward(
    backend, dtype, tolerance, segments, heads, head_dim
):
    skip_unless_it_runs(backend, dtype, head_dim, shares=segments is SHARES)
    exact, where = draw(segments, heads, head_dim, backend)
    inputs = [x.to(dtype) for x in exact]
    exact = [x.double() for x in inputs]
    scale = head_dim**-0.5
    out, lse = attend(*inputs, *where, scale, backend)
    exact_out, exact_lse = attend(*exact, *where, scale, "reference")
    torch.testing.assert_close(lse.double(), exact_lse, rtol=tolerance, atol=tolerance)
    assert (out - exact_out).norm() <= tolerance * exact_out.norm()
    gradient = torch.ones_like(out)
    got = attend_backward(gradient, *inputs, out, lse, *where, scale, backend)
    want = attend_backward(
        gradient.double(), *exact, exact_out, exact_lse, *where, scale, "reference"
    )
    for one, other in zip(got, want, strict=True):
        assert one.dtype == dtype
        assert (one - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize("backend", FUSED)
def test_keeps_the_promises_of_a_custom_op(backend):
    skip_unless_it_runs(backend)
    exact, where = draw(DOCUMENTS, (6, 2), 64, backend)
    inputs = [x.bfloat16().requires_grad_() for x in exact]
    torch.library.opcheck(
        attend,
        (*inputs, *where, 0.125, backend),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


@pytest.mark.parametrize("backend", FUSED)
def test_changing_one_document_changes_no_bit_of_another(backend):
    skip_unless_it_runs(backend)
    exact, where = draw(DOCUMENTS, (6, 2), 64, backend)
    inputs = [x.bfloat16() for x in exact]
    changed = [x.clone() for x in inputs]
    for x in changed:
        x[8:141] += 1
    before, after = (attend(*each, *where, 0.125, backend)[0] for each in (inputs, changed))
    assert torch.equal(before[:8], after[:8])
    assert torch.equal(before[141:], after[141:])
    assert not torch.equal(before[8:141], after[8:141])


@pytest.mark.parametrize("backend", ["torch_varlen", "fa4"])
def test_repeats_every_bit_where_torch_is_asked_to(backend):
    torch.use_deterministic_algorithms(True)
    try:
        skip_unless_it_runs(backend)
        exact, where = draw(SHARES, (6, 2), 64, backend)
        inputs = [x.bfloat16() for x in exact]
        out, lse = attend(*inputs, *where, 0.125, backend)
        rest = (torch.ones_like(out), *inputs, out, lse, *where, 0.125, backend)
        once, again = attend_backward(*rest), attend_backward(*rest)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, other) for one, other in zip(once, again, strict=True))


def test_auto_takes_flash_where_it_can_and_sdpa_where_it_cannot():
    device = torch.device("cuda", 0)
    assert choose_backend("auto", device, torch.bfloat16, 128) == "torch_varlen"
    assert choose_backend("auto", device, torch.float32, 128) == "sdpa"


def test_the_probe_times_every_backend_that_runs_here_and_finds_them_equal():
    device, dtype = torch.device("cuda", 0), torch.bfloat16
    able = [
        name for name in FUSED if KERNELS[name].obstacle(KernelRequest(device, dtype, 128)) is None
    ]
    lengths = [(n, n) for n in (2000, 700, 1300, 1, 95)]
    times = time_backends(able, lengths, Heads(12, 2, 128), dtype, device)
    assert sorted(times) == sorted(able)
    assert all(ms > 0 for ms in times.values())
