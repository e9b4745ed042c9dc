"""Attention on the CPU: torch's flash kernel, one document after the other.

The kernel's causal mask is aligned at the top left. A document with fewer queries than keys is
therefore computed as two parts without a mask in memory: all queries against the keys in front of
them, and the queries against their own keys, causal. With (o1, l1) and (o2, l2) the attended values
and log-sum-exps of the parts::

    l = log(exp(l1) + exp(l2))        o = exp(l1 - l) o1 + exp(l2 - l) o2

and the gradient is the sum of the parts' gradients, each formed with the joint o and l. Against one
call with a mask, for 1,024 queries of 4,096 keys (8 heads, ``bench/attention_cpu.py``): a fifth
less time, and no memory of queries times keys.

16-bit inputs are computed in float32, which is no slower here and rounds once, except for the
backward pass of long documents.
"""

import torch
from torch import Tensor

from longrun.nn.kernels.segments import (
    Gradients,
    Saved,
    Segments,
    as_batch,
    empty_outputs,
    from_batch,
    pairs,
)

NARROW_BACKWARD_TOKENS = 512
"""Keys from which the backward pass of a document is faster in 16 bits than in float32.

Below, the 16-bit kernel packs its operands for longer than it multiplies: a pack of 125 documents
of 33 tokens takes 3.7 times as long, forward and backward (``bench/attention_cpu.py``)."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def forward(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float
) -> tuple[Tensor, Tensor]:
    """See ``segments.Forward``."""
    o, lse = empty_outputs(q)
    for rows_q, rows_k in pairs(segments):
        part_q, part_k, part_v = (as_batch(_widen(x)) for x in (q[rows_q], k[rows_k], v[rows_k]))
        part_o, part_lse = _attend(part_q, part_k, part_v, scale)
        o[rows_q] = from_batch(part_o)
        lse[:, rows_q] = part_lse[0]
    return o, lse


def backward(do: Tensor, saved: Saved, segments: Segments, scale: float) -> Gradients:
    """See ``segments.Backward``."""
    q, k, v, o, lse = saved
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for rows_q, rows_k in pairs(segments):
        wide = rows_k.stop - rows_k.start < NARROW_BACKWARD_TOKENS
        part_do, part_q, part_k, part_v, part_o = (
            as_batch(_widen(x) if wide else x)
            for x in (do[rows_q], q[rows_q], k[rows_k], v[rows_k], o[rows_q])
        )
        part = (part_q, part_k, part_v, part_o, lse[None, :, rows_q])
        grads = _attend_backward(part_do, part, scale)
        dq[rows_q], dk[rows_k], dv[rows_k] = (from_batch(grad) for grad in grads)
    return dq, dk, dv


def _widen(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attend inside one document, [1, H, T, D] to [1, K, S, D], bottom-right causal."""
    before = k.shape[2] - q.shape[2]
    own_o, own_lse = _flash(q, k[:, :, before:], v[:, :, before:], 0.0, True, scale=scale)
    if not before:
        return own_o, own_lse
    front_o, front_lse = _flash(q, k[:, :, :before], v[:, :, :before], 0.0, False, scale=scale)
    lse = torch.logaddexp(own_lse, front_lse)
    own_share, front_share = (own_lse - lse).exp()[..., None], (front_lse - lse).exp()[..., None]
    return own_o * own_share + front_o * front_share, lse


def _attend_backward(do: Tensor, saved: Saved, scale: float) -> Gradients:
    q, k, v, o, lse = saved
    before = k.shape[2] - q.shape[2]
    dq, dk, dv = _flash_backward(
        do, q, k[:, :, before:], v[:, :, before:], o, lse, 0.0, True, scale=scale
    )
    if not before:
        return dq, dk, dv
    front_dq, front_dk, front_dv = _flash_backward(
        do, q, k[:, :, :before], v[:, :, :before], o, lse, 0.0, False, scale=scale
    )
    return dq + front_dq, torch.cat((front_dk, dk), 2), torch.cat((front_dv, dv), 2)
