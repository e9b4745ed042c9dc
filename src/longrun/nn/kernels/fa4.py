"""Attention by FlashAttention 4 (package ``flash-attn-4``): one call for the whole pack.

Called below its autograd wrapper: ``attend`` is one op for all backends and keeps output and
log-sum-exp itself. Those two functions are private, so their parameters are compared with what is
passed here before the backend is offered. Causal masks are aligned at the bottom right, key-value
heads may be fewer than query heads, a document may have no queries. Compiled once per head shape
and dtype at the first call, for about ten seconds; lengths are arguments, not part of the kernel.
"""

import inspect
from functools import cache
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from longrun.nn.kernels.segments import (
    Gradients,
    Kernel,
    KernelRequest,
    Saved,
    Segments,
    cuda_obstacle,
)

CAPABILITIES = range(9, 13)
"""Hopper and Blackwell: its backward pass knows no older device."""
CONSUMER_BLACKWELL = 12
"""Major version whose backward pass has no deterministic form."""
HOPPER_HEAD, OTHER_HEAD = 256, 128
"""Largest head_dim on Hopper and elsewhere."""
INSTALL = "pip install 'flash-attn-4[cu13]'"
NEEDED = {
    "_flash_attn_fwd": (
        "q k v cu_seqlens_q cu_seqlens_k max_seqlen_q max_seqlen_k softmax_scale causal return_lse"
    ),
    "_flash_attn_bwd": (
        "q k v out dout lse softmax_scale causal cu_seqlens_q cu_seqlens_k max_seqlen_q"
        " max_seqlen_k deterministic"
    ),
}
"""Function -> the parameters that are passed by name."""


def _obstacle(request: KernelRequest) -> str | None:
    major = (
        torch.cuda.get_device_capability(request.device)[0] if request.device.type == "cuda" else 0
    )
    largest = HOPPER_HEAD if major == CAPABILITIES.start else OTHER_HEAD
    obstacle = cuda_obstacle(request, capabilities=CAPABILITIES, largest_head=largest)
    if obstacle is not None:
        return obstacle
    if major == CONSUMER_BLACKWELL and torch.are_deterministic_algorithms_enabled():
        return f"it is not deterministic on compute capability {major}"
    return package_obstacle()


@cache
def package_obstacle() -> str | None:
    """Say why the package cannot be used; None: it can."""
    try:
        functions = _interface()
    except ImportError as problem:
        return f"flash-attn-4 cannot be imported ({problem}); {INSTALL}"
    for name, parameters in NEEDED.items():
        function = getattr(functions, name, None)
        known = inspect.signature(function).parameters if function else {}
        missing = [word for word in parameters.split() if word not in known]
        if missing:
            return f"this flash-attn-4 has no {name}({', '.join(missing)}); {INSTALL}"
    return None


def _interface() -> ModuleType:
    return import_module("flash_attn.cute.interface")


def _boundaries(segments: Segments) -> dict[str, Tensor | int]:
    names = ("cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k")
    return dict(zip(names, segments, strict=True))


def _forward(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float
) -> tuple[Tensor, Tensor]:
    o, lse, *_ = _interface()._flash_attn_fwd(
        q=q, k=k, v=v, softmax_scale=scale, causal=True, return_lse=True, **_boundaries(segments)
    )
    return o, lse


def _backward(do: Tensor, saved: Saved, segments: Segments, scale: float) -> Gradients:
    q, k, v, o, lse = saved
    dq, dk, dv, *_ = _interface()._flash_attn_bwd(
        q=q,
        k=k,
        v=v,
        out=o,
        dout=do,
        lse=lse,
        softmax_scale=scale,
        causal=True,
        deterministic=torch.are_deterministic_algorithms_enabled(),
        **_boundaries(segments),
    )
    return dq, dk, dv


KERNEL = Kernel(_forward, _backward, _obstacle, device_boundaries=True)
