"""The backends of attention against plain formulas and against each other."""

import pytest
import torch
from torch import Tensor

from longrun.nn.attention import attend, attend_backward

HEADS = [(4, 4), (6, 2), (5, 1)]
DOCUMENTS = [(7, 7), (1, 1), (33, 33), (64, 64)]
SHARES = [(3, 7), (0, 5), (1, 1), (20, 33), (64, 64)]
"""(queries, keys) of every document, as when another process holds the other queries."""


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
