"""Attention by torch's own variable-length flash kernel (FlashAttention 2): one call a pack."""

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

CAPABILITIES = range(8, 100)
"""Ampere and everything after it: the kernel is compiled for each of torch's architectures."""


def _obstacle(request: KernelRequest) -> str | None:
    obstacle = cuda_obstacle(request, capabilities=CAPABILITIES)
    if obstacle is None and not torch.backends.cuda.is_flash_attention_available():
        return "this build of torch has no flash attention"
    return obstacle


def _forward(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float
) -> tuple[Tensor, Tensor]:
    o, lse, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, *segments, 0.0, True, False, scale=scale
    )
    return o, lse


def _backward(do: Tensor, saved: Saved, segments: Segments, scale: float) -> Gradients:
    q, k, v, o, lse = saved
    # Without dropout the kernel reads neither the random state nor the unused tensor.
    random_state = torch.zeros(2, dtype=torch.uint64, device=q.device)
    unused = torch.empty(0, device=q.device)
    dq, dk, dv = torch.ops.aten._flash_attention_backward(
        do, q, k, v, o, lse, *segments, 0.0, True, random_state, unused, scale=scale
    )
    return dq, dk, dv


KERNEL = Kernel(_forward, _backward, _obstacle, device_boundaries=True)
