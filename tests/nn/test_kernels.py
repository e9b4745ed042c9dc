"""The backends of attention against plain formulas and against each other."""

import re
import sys
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from longrun.nn.attention import attend, attend_backward
from longrun.nn.kernels import KERNELS, KernelRequest, cudnn, efficient, fa4, processor

HEADS = [(4, 4), (6, 2), (5, 1)]
DOCUMENTS = [(7, 7), (1, 1), (33, 33), (64, 64)]
SHARES = [(3, 7), (0, 5), (1, 1), (20, 33), (64, 64)]
"""(queries, keys) of every document, as when another process holds the other queries."""
BOTH_PRECISIONS = [(1, 1), (40, 90), (150, 520), (530, 530)]
"""Documents on both sides of the length at which the 16-bit backward pass changes."""


def draw(
    segments: list[tuple[int, int]], heads: tuple[int, int], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor, int, int]]:
    generator = torch.Generator().manual_seed(1)
    num_q, num_k = (sum(counts) for counts in zip(*segments, strict=True))
    q = torch.randn(num_q, heads[0], 16, generator=generator, dtype=torch.float64)
    k = torch.randn(num_k, heads[1], 16, generator=generator, dtype=torch.float64)
    v = torch.randn(num_k, heads[1], 16, generator=generator, dtype=torch.float64)
    cu_q, cu_k = (
        torch.tensor([0, *counts]).cumsum(0).to(torch.int32)
        for counts in zip(*segments, strict=True)
    )
    longest = [max(counts) for counts in zip(*segments, strict=True)]
    return q.to(dtype), k.to(dtype), v.to(dtype), (cu_q, cu_k, *longest)


def naive(q: Tensor, k: Tensor, v: Tensor, segments: list[tuple[int, int]]) -> Tensor:
    """Attend one query and one head at a time: no mask, no batch, no grouping trick."""
    groups = q.shape[1] // k.shape[1]
    rows, start_q, start_k = [], 0, 0
    for num_q, num_k in segments:
        for i in range(num_q):
            end = start_k + num_k - num_q + i + 1
            heads = []
            for head in range(q.shape[1]):
                keys, values = (x[start_k:end, head // groups] for x in (k, v))
                scores = keys @ q[start_q + i, head] * q.shape[-1] ** -0.5
                heads.append(scores.softmax(0) @ values)
            rows.append(torch.stack(heads))
        start_q, start_k = start_q + num_q, start_k + num_k
    return torch.stack(rows)


def attended(backend: str, q: Tensor, k: Tensor, v: Tensor, where: tuple) -> Tensor:
    return attend(q, k, v, *where, q.shape[-1] ** -0.5, backend)[0]


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("segments", [DOCUMENTS, SHARES])
@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_equals_attention_formed_query_by_query(backend, segments, heads):
    q, k, v, where = draw(segments, heads)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    out, expected = attended(backend, *inputs, where), naive(*inputs, segments)
    torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-12)
    gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).double()
    got = torch.autograd.grad(out, inputs, gradient)
    want = torch.autograd.grad(expected, inputs, gradient)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)]
)
@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_stays_close_to_float64_in_every_dtype(backend, dtype, tolerance):
    q, k, v, where = draw(SHARES, (6, 2), dtype)
    scale = 0.25
    out, lse = attend(q, k, v, *where, scale, backend)
    exact = attend(q.double(), k.double(), v.double(), *where, scale, "reference")
    assert (out.dtype, lse.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(lse.double(), exact[1], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(out.double(), exact[0], rtol=tolerance, atol=tolerance)
    gradient = torch.ones_like(out)
    got = attend_backward(gradient, q, k, v, out, lse, *where, scale, backend)
    saved = (q.double(), k.double(), v.double(), *exact)
    want = attend_backward(gradient.double(), *saved, *where, scale, "reference")
    for one, other in zip(got, want, strict=True):
        assert one.dtype == dtype
        assert (one.double() - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_gives_keys_without_queries_a_gradient_of_zero(backend):
    q, k, v, where = draw([(0, 5), (3, 3)], (4, 2))
    inputs = [x.requires_grad_() for x in (q, k, v)]
    _, dk, dv = torch.autograd.grad(attended(backend, *inputs, where).sum(), inputs)
    assert not dk[:5].any()
    assert not dv[:5].any()


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_refuses_a_document_with_fewer_keys_than_queries(backend):
    q, k, v, where = draw([(3, 3), (4, 2)], (4, 2))
    with pytest.raises(ValueError, match="document 1: 4 queries but only 2 keys"):
        attended(backend, q, k, v, where)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_and_long_documents_are_equally_near_to_float64_in_16_bits(dtype):
    assert min(BOTH_PRECISIONS)[1] < processor.NARROW_BACKWARD_TOKENS < max(BOTH_PRECISIONS)[1]
    q, k, v, where = draw(BOTH_PRECISIONS, (4, 2), dtype)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    gradient = torch.randn(q.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    got = torch.autograd.grad(attended("sdpa", *inputs, where), inputs, gradient)
    want = torch.autograd.grad(attended("reference", *exact, where), exact, gradient.double())
    bounds = (where[0].tolist(), where[1].tolist(), where[1].tolist())
    for one, other, starts in zip(got, want, bounds, strict=True):
        for start, stop in pairwise(starts):
            difference = (one[start:stop] - other[start:stop]).norm()
            assert difference <= 0.015 * other[start:stop].norm() + 1e-3 * other.norm()


def test_a_short_document_in_16_bits_is_the_float32_one_rounded_once():
    q, k, v, where = draw([(40, 90), (64, 64)], (4, 2), torch.bfloat16)
    do, scale = torch.ones_like(q), 0.25
    out, lse = processor.forward(q, k, v, where, scale)
    wide_out, wide_lse = processor.forward(q.float(), k.float(), v.float(), where, scale)
    assert torch.equal(out, wide_out.bfloat16())
    assert torch.equal(lse, wide_lse)
    saved = (q, k, v, out, lse)
    wide = processor.backward(do.float(), tuple(x.float() for x in saved), where, scale)
    for one, other in zip(processor.backward(do, saved, where, scale), wide, strict=True):
        assert torch.equal(one, other.bfloat16())


class LargestTensor(TorchDispatchMode):
    """Remember the most elements that any operation returned in one tensor."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


def test_a_share_of_a_document_takes_no_memory_of_queries_times_keys():
    q, k, v, where = draw([(300, 600)], (2, 1))
    do, scale = torch.ones_like(q), 0.25
    with LargestTensor() as largest:
        out, lse = processor.forward(q, k, v, where, scale)
        processor.backward(do, (q, k, v, out, lse), where, scale)
    assert largest.elements < 300 * 600 / 8


@pytest.mark.parametrize("kernel", [efficient, KERNELS["torch_varlen"], KERNELS["cudnn"]])
def test_hands_the_cuda_kernels_arguments_that_they_take(kernel, monkeypatch):
    """Shapes and schemas only: nothing is computed on the meta device."""
    monkeypatch.setenv(cudnn.SHAPE_VARIABLE, "0")  # the meta kernel knows one memory order only
    q = torch.empty(41, 4, 64, dtype=torch.bfloat16, device="meta")
    k, v = (torch.empty(41, 2, 64, dtype=torch.bfloat16, device="meta") for _ in range(2))
    cu = torch.tensor([0, 7, 8, 41], dtype=torch.int32)
    if getattr(kernel, "device_boundaries", False):
        cu = cu.to("meta")
    where = (cu, cu, 33, 33)
    out, lse = kernel.forward(q, k, v, where, 0.125)
    assert (out.shape, out.dtype) == (q.shape, q.dtype)
    assert (lse.shape, lse.dtype) == ((4, 41), torch.float32)
    grads = kernel.backward(torch.empty_like(out), (q, k, v, out, lse), where, 0.125)
    assert [grad.shape for grad in grads] == [q.shape, k.shape, v.shape]


def test_cudnn_refuses_a_share_of_a_document():
    q, k, v, where = draw([(3, 7)], (4, 2))
    with pytest.raises(ValueError, match="of a document differ"):
        KERNELS["cudnn"].forward(q, k, v, where, 0.25)


def test_cudnn_gets_the_log_sum_exp_in_the_memory_order_of_its_plan(monkeypatch):
    lse = torch.arange(12.0).view(3, 4)
    for variable, strides in (("1", (1, 3)), ("0", (4, 1))):
        monkeypatch.setenv(cudnn.SHAPE_VARIABLE, variable)
        ordered = cudnn._in_order(lse)
        assert ordered.stride()[1:3] == strides
        assert torch.equal(ordered[0, :, :, 0], lse)
        cudnn._check_order(ordered)
        with pytest.raises(RuntimeError, match=f"set {cudnn.SHAPE_VARIABLE} before anything"):
            cudnn._check_order(torch.empty(1, 5, 7, 1)[:, :3, :4])


def test_the_gpu_kernels_say_why_they_cannot_run_on_the_cpu():
    request = KernelRequest(torch.device("cpu"), torch.bfloat16, 128)
    for backend in ("torch_varlen", "fa4", "cudnn"):
        assert KERNELS[backend].obstacle(request) == "it needs a CUDA device, not cpu"
    assert KERNELS["sdpa"].obstacle(request) is None


def on_hopper(monkeypatch, capability=(9, 0)):
    """Answer the questions about a device as Hopper does; nothing is computed on it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)


@pytest.mark.parametrize(
    ("backend", "place", "obstacle"),
    [
        ("torch_varlen", {"dtype": torch.float32}, "it computes in float16 or bfloat16"),
        ("torch_varlen", {"head_dim": 100}, "head_dim 100 is not a multiple of 8 up to 256"),
        ("cudnn", {"head_dim": 256}, "head_dim 256 is not a multiple of 8 up to 128"),
        ("cudnn", {"shares": True}, "as many queries as keys"),
        ("torch_varlen", {"shares": True}, None),
        ("cudnn", {}, None),
    ],
)
def test_names_what_a_kernel_cannot_do_on_a_gpu(backend, place, obstacle, monkeypatch):
    on_hopper(monkeypatch)
    fields = {"device": torch.device("cuda"), "dtype": torch.bfloat16, "head_dim": 128, **place}
    found = KERNELS[backend].obstacle(KernelRequest(**fields))
    assert found is None if obstacle is None else obstacle in found


def test_names_a_device_that_is_too_old(monkeypatch):
    on_hopper(monkeypatch, (8, 0))
    request = KernelRequest(torch.device("cuda"), torch.bfloat16, 128)
    assert KERNELS["torch_varlen"].obstacle(request) is None
    for backend in ("fa4", "cudnn"):
        assert "compute capability 8.0" in KERNELS[backend].obstacle(request)


def test_cudnn_is_not_offered_where_results_must_repeat(monkeypatch):
    on_hopper(monkeypatch)
    request = KernelRequest(torch.device("cuda"), torch.bfloat16, 128)
    torch.use_deterministic_algorithms(True)
    try:
        assert KERNELS["cudnn"].obstacle(request) == "its backward pass is not deterministic"
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("source", "obstacle"),
    [
        (None, "cannot be imported"),
        ("def _flash_attn_fwd(q, k, v): pass", "no _flash_attn_fwd.cu_seqlens_q, "),
        ("", "no _flash_attn_fwd.q, k, v, "),
    ],
)
def test_fa4_is_offered_only_with_the_functions_it_calls(source, obstacle, tmp_path, monkeypatch):
    folder = tmp_path / "flash_attn" / "cute"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "interface.py").write_text("import nothing_like_it" if source is None else source)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("flash_attn", "flash_attn.cute", "flash_attn.cute.interface"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    fa4.package_obstacle.cache_clear()
    try:
        found = fa4.package_obstacle()
    finally:
        fa4.package_obstacle.cache_clear()
        for name in ("flash_attn", "flash_attn.cute", "flash_attn.cute.interface"):
            sys.modules.pop(name, None)
    assert re.search(obstacle, found)
    assert found.endswith("pip install 'flash-attn-4[cu13]'")
