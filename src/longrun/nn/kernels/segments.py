"""What every attention kernel shares: its types, the rows of each document, and views of them.

Shapes as in ``longrun.nn.attention``: T query tokens, S key tokens, H query heads, K key-value
heads, D channels of a head.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Segments = tuple[Tensor, Tensor, int, int]
"""(cu_q, cu_k, max_q, max_k)."""
Saved = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""(q, k, v, o, lse) of the forward pass."""
Gradients = tuple[Tensor, Tensor, Tensor]
"""(dq, dk, dv)."""
Forward = Callable[[Tensor, Tensor, Tensor, Segments, float], tuple[Tensor, Tensor]]
"""(q, k, v, segments, scale) -> (o, lse)."""
Backward = Callable[[Tensor, Saved, Segments, float], Gradients]
"""(do, saved, segments, scale) -> gradients; ``do`` arrives contiguous."""


@dataclass(frozen=True, slots=True)
class KernelRequest:
    """Where a kernel would run."""

    device: torch.device
    dtype: torch.dtype
    """Of queries, keys and values."""
    head_dim: int
    shares: bool = False
    """A document may have fewer queries than keys here, as under context parallelism."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One backend: two functions that run below autograd, on plain tensors."""

    forward: Forward
    backward: Backward
    obstacle: Callable[[KernelRequest], str | None]
    """Say why the kernel cannot serve a request; None: it can."""
    device_boundaries: bool
    """The kernel reads ``cu_q`` and ``cu_k`` on its device; else the host reads them."""


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums over values of ``dtype``: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def pairs(segments: Segments) -> Iterator[tuple[slice, slice]]:
    """Yield the rows of the queries and of the keys of every document that has queries here."""
    starts_q, starts_k = segments[0].tolist(), segments[1].tolist()
    for index in range(len(starts_q) - 1):
        rows_q = slice(starts_q[index], starts_q[index + 1])
        rows_k = slice(starts_k[index], starts_k[index + 1])
        num_q, num_k = rows_q.stop - rows_q.start, rows_k.stop - rows_k.start
        if num_k < num_q:
            raise ValueError(f"document {index}: {num_q} queries but only {num_k} keys")
        if num_q:
            yield rows_q, rows_k


def hidden_keys(num_q: int, num_k: int, device: torch.device) -> Tensor:
    """Return the bottom-right causal mask, [num_q, num_k]: True where a key is NOT seen."""
    return torch.ones(num_q, num_k, dtype=torch.bool, device=device).triu(num_k - num_q + 1)


def as_batch(x_THD: Tensor) -> Tensor:
    """View one document as the [1, H, T, D] that scaled-dot-product kernels take."""
    return x_THD.transpose(0, 1)[None]


def from_batch(x_1HTD: Tensor) -> Tensor:
    """View [1, H, T, D] as [T, H, D]."""
    return x_1HTD[0].transpose(0, 1)


def empty_outputs(q: Tensor) -> tuple[Tensor, Tensor]:
    """Allocate (o [T, H, D], lse [H, T])."""
    lse = q.new_empty(q.shape[1], q.shape[0], dtype=accumulation_dtype(q.dtype))
    return q.new_empty(q.shape), lse


def cuda_obstacle(
    request: KernelRequest, *, capabilities: range, largest_head: int = 256
) -> str | None:
    """Say what keeps a 16-bit CUDA kernel from running; ``capabilities``: major versions."""
    if request.device.type != "cuda":
        return f"it needs a CUDA device, not {request.device.type}"
    major, minor = torch.cuda.get_device_capability(request.device)
    if major not in capabilities:
        known = f"{capabilities.start} to {capabilities.stop - 1}"
        return f"this device has compute capability {major}.{minor}, the kernel knows {known}"
    if request.dtype not in (torch.float16, torch.bfloat16):
        return f"it computes in float16 or bfloat16, not {request.dtype}"
    if request.head_dim > largest_head or request.head_dim % 8:
        return f"head_dim {request.head_dim} is not a multiple of 8 up to {largest_head}"
    return None


def no_obstacle(_: KernelRequest) -> None:
    """Run everywhere."""
