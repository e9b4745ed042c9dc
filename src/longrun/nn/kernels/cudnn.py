"""Attention by cuDNN's fused kernel, one document after the other.

cuDNN builds a plan per shape, which takes tens of milliseconds and more. With
``TORCH_CUDNN_SDPA_AVOID_RECOMPILE=1`` torch rounds the length in the plan up to a power of two and
passes the true one, so that a handful of plans serves all documents. torch reads the variable
once, at its first cuDNN attention, and then expects the log-sum-exp in the memory order
[T, H] instead of [H, T]; the order of the forward pass is compared with the expected one, because
the backward pass would read the other without complaint.

Its causal mask is aligned at the top left, so queries must be as many as keys. A document of one
token, which cuDNN does not take, goes to the memory-efficient kernel.
"""

import os

import torch
from torch import Tensor

from longrun.nn.kernels import efficient
from longrun.nn.kernels.segments import (
    Gradients,
    Kernel,
    KernelRequest,
    Saved,
    Segments,
    as_batch,
    cuda_obstacle,
    empty_outputs,
    from_batch,
    pairs,
)

CAPABILITIES = range(9, 100)
"""Hopper and after it; on older devices it is not faster than torch's own flash kernel."""
LARGEST_HEAD = 128
SHAPE_VARIABLE = "TORCH_CUDNN_SDPA_AVOID_RECOMPILE"


def _obstacle(request: KernelRequest) -> str | None:
    obstacle = cuda_obstacle(request, capabilities=CAPABILITIES, largest_head=LARGEST_HEAD)
    if obstacle is not None:
        return obstacle
    if request.shares:
        return (
            "its causal mask needs as many queries as keys in every document, which"
            " context_parallel splits"
        )
    if not torch.backends.cudnn.is_available():  # type: ignore[no-untyped-call]  # torch does not annotate it
        return "this build of torch has no cuDNN"
    if torch.are_deterministic_algorithms_enabled():
        return "its backward pass is not deterministic"
    return None


def _rounds_lengths() -> bool:
    return os.environ.get(SHAPE_VARIABLE) == "1"


def _forward(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float
) -> tuple[Tensor, Tensor]:
    os.environ.setdefault(SHAPE_VARIABLE, "1")
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    o, lse = empty_outputs(q)
    for rows in _rows(segments):
        part = (q[rows], k[rows], v[rows])
        if rows.stop - rows.start == 1:
            o[rows], lse[:, rows] = efficient.attend_document(*part, scale)
            continue
        part_o, part_lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
            *(as_batch(x) for x in part), None, True, 0.0, True, False, scale=scale
        )
        _check_order(part_lse)
        o[rows], lse[:, rows] = from_batch(part_o), part_lse[0, :, :, 0]
    return o, lse


def _backward(do: Tensor, saved: Saved, segments: Segments, scale: float) -> Gradients:
    q, k, v, o, lse = (x.contiguous() for x in saved)
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    unused = torch.zeros((), dtype=torch.int64, device=q.device)
    for rows in _rows(segments):
        part = (q[rows], k[rows], v[rows], o[rows])
        length = rows.stop - rows.start
        if length == 1:
            grads = efficient.attend_document_backward(do[rows], (*part, lse[:, rows]), scale)
            dq[rows], dk[rows], dv[rows] = grads
            continue
        batches = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
            as_batch(do[rows]),
            *(as_batch(x) for x in part),
            _in_order(lse[:, rows]),
            unused,
            unused,
            None,
            None,
            None,
            length,
            length,
            0.0,
            True,
            scale=scale,
        )
        dq[rows], dk[rows], dv[rows] = (from_batch(grad) for grad in batches)
    return dq, dk, dv


def _rows(segments: Segments) -> list[slice]:
    """Return the rows of every document.

    Raises ``ValueError`` where queries and keys are not the same rows.
    """
    both = list(pairs(segments))
    for rows_q, rows_k in both:
        if rows_q != rows_k:
            raise ValueError(f"cudnn: queries {rows_q} and keys {rows_k} of a document differ")
    return [rows for rows, _ in both]


def _in_order(lse_HT: Tensor) -> Tensor:
    """Return [1, H, T, 1] in the memory order that cuDNN's plan was built for."""
    if _rounds_lengths():
        return lse_HT.T.contiguous().T[None, ..., None]
    return lse_HT.contiguous()[None, ..., None]


def _check_order(lse_1HT1: Tensor) -> None:
    num_heads, num_tokens = lse_1HT1.shape[1:3]
    expected = (1, num_heads) if _rounds_lengths() else (num_tokens, 1)
    if num_heads > 1 and lse_1HT1.stride()[1:3] != expected:
        raise RuntimeError(
            f"cuDNN attention: the log-sum-exp has strides {lse_1HT1.stride()}, expected {expected}"
            f" for heads and tokens; set {SHAPE_VARIABLE} before anything else computes attention"
        )


KERNEL = Kernel(_forward, _backward, _obstacle, device_boundaries=False)
