"""The kernels behind ``longrun.nn.attention.attend``; nobody else calls them."""

from torch import Tensor

from longrun.nn.kernels import cudnn, efficient, fa4, processor, reference, torch_varlen
from longrun.nn.kernels.segments import (
    Gradients,
    Kernel,
    KernelRequest,
    Saved,
    Segments,
    accumulation_dtype,
    no_obstacle,
)

__all__ = ["KERNELS", "Kernel", "KernelRequest", "accumulation_dtype"]


def _sdpa_forward(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float
) -> tuple[Tensor, Tensor]:
    forward = efficient.forward if q.is_cuda else processor.forward
    return forward(q, k, v, segments, scale)


def _sdpa_backward(do: Tensor, saved: Saved, segments: Segments, scale: float) -> Gradients:
    backward = efficient.backward if do.is_cuda else processor.backward
    return backward(do, saved, segments, scale)


KERNELS: dict[str, Kernel] = {
    "reference": reference.KERNEL,
    "sdpa": Kernel(_sdpa_forward, _sdpa_backward, no_obstacle, device_boundaries=False),
    "torch_varlen": torch_varlen.KERNEL,
    "fa4": fa4.KERNEL,
    "cudnn": cudnn.KERNEL,
}
"""Name -> backend: the only list."""
