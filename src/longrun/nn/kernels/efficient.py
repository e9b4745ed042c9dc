"""Attention on CUDA by the memory-efficient kernel, one document after the other.

It runs in every dtype up to float32 and on every CUDA device, and repeats the key-value heads.
"""

import torch
from torch import Tensor
from torch.nn import functional

from longrun.nn.kernels.segments import (
    Gradients,
    Saved,
    Segments,
    as_batch,
    empty_outputs,
    from_batch,
    hidden_keys,
    pairs,
)

LSE_ALIGNMENT = 32
"""The kernel pads its log-sum-exp to this many queries."""
BIAS_ALIGNMENT = 16
"""The kernel wants bias rows aligned to this many elements."""


def forward(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float
) -> tuple[Tensor, Tensor]:
    """See ``segments.Forward``."""
    o, lse = empty_outputs(q)
    for rows_q, rows_k in pairs(segments):
        o[rows_q], lse[:, rows_q] = attend_document(q[rows_q], k[rows_k], v[rows_k], scale)
    return o, lse


def backward(do: Tensor, saved: Saved, segments: Segments, scale: float) -> Gradients:
    """See ``segments.Backward``."""
    q, k, v, o, lse = saved
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for rows_q, rows_k in pairs(segments):
        part = (q[rows_q], k[rows_k], v[rows_k], o[rows_q], lse[:, rows_q])
        grads = attend_document_backward(do[rows_q], part, scale)
        dq[rows_q], dk[rows_k], dv[rows_k] = grads
    return dq, dk, dv


def attend_document(
    q_THD: Tensor, k_SKD: Tensor, v_SKD: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Attend inside one document: (o [T, H, D], lse [H, T])."""
    q, k, v = as_batch(q_THD), as_batch(k_SKD), as_batch(v_SKD)
    bias = _bias(q, k)
    groups = q.shape[1] // k.shape[1]
    o, lse, _, _ = torch.ops.aten._scaled_dot_product_efficient_attention(
        q,
        k.repeat_interleave(groups, 1),
        v.repeat_interleave(groups, 1),
        bias,
        True,
        0.0,
        bias is None,
        scale=scale,
    )
    return from_batch(o), lse[0, :, : q.shape[2]]


def attend_document_backward(do_THD: Tensor, saved: Saved, scale: float) -> Gradients:
    """Return the gradients of one document, shaped as its q, k and v."""
    q, k, v, o = (as_batch(x) for x in saved[:4])
    lse = saved[4][None]
    bias = _bias(q, k)
    groups = q.shape[1] // k.shape[1]
    wide_k, wide_v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    lse = functional.pad(lse, (0, -lse.shape[-1] % LSE_ALIGNMENT), value=torch.inf)
    unused = torch.zeros((), dtype=torch.int64, device=q.device)
    dq, dk, dv, _ = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
        as_batch(do_THD),
        q,
        wide_k,
        wide_v,
        bias,
        o,
        lse.contiguous(),
        unused,
        unused,
        0.0,
        [True, True, True, False],
        bias is None,
        scale=scale,
    )
    dk, dv = (x.view(1, -1, groups, *x.shape[2:]).sum(2) for x in (dk, dv))
    return from_batch(dq), from_batch(dk), from_batch(dv)


def _bias(q: Tensor, k: Tensor) -> Tensor | None:
    """Return an additive mask [1, H, T, S] for unequal lengths, rows aligned as the kernel asks."""
    num_q, num_k = q.shape[2], k.shape[2]
    if num_q == num_k:
        return None
    columns = num_k + -num_k % BIAS_ALIGNMENT
    bias = q.new_zeros(num_q, columns)
    bias[:, :num_k].masked_fill_(hidden_keys(num_q, num_k, q.device), -torch.inf)
    return bias[:, :num_k].expand(1, q.shape[1], -1, -1)
