"""Causal attention inside the documents of a pack: one custom op, several kernels.

``attend`` is opaque to autograd and to compilers, so that no kernel is ever swapped for one that
ignores the boundaries. Queries and keys carry boundaries of their own and the mask is aligned at
the bottom right: with n queries and m >= n keys in a document, query i sees the keys 0 .. m-n+i.
That is what a share of the queries needs when all keys of the document are at hand.

Backends, all exact, differing in speed and in rounding only:

============ ======================================================================================
reference    plain formulas, one document after the other, float32 or float64: the oracle
sdpa         one fused kernel call per document, on the CPU and on CUDA (memory-efficient)
torch_varlen one call of torch's flash kernel for the pack; CUDA, float16 or bfloat16
fa4          one call of FlashAttention 4 for the pack; Hopper and Blackwell, extra ``[gpu]``
cudnn        one cuDNN call per document; Hopper and Blackwell, not for shares of a document
============ ======================================================================================

Shapes: T query tokens, S key tokens, H query heads, K key-value heads (H a multiple of K),
D channels of a head. The log-sum-exp is [H, T], float32 (float64 for float64 inputs).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from longrun.errors import ConfigError
from longrun.nn.kernels import KERNELS, KernelRequest, accumulation_dtype
from longrun.nn.pack import PackTensors

BACKENDS = tuple(KERNELS)
ORACLE = "reference"
PREFERRED = ("torch_varlen", "sdpa")
"""What "auto" takes, in this order, where nothing is measured."""

Measure = Callable[[Sequence[str]], Mapping[str, float]]
"""Milliseconds of forward and backward of each backend, equal on every rank."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Boundaries:
    """Where segments begin in the queries and in the keys, as the chosen backend wants it."""

    cu_q: Tensor
    """[D + 1] int32, on the device for kernels with ``device_boundaries``, else on the host."""
    cu_k: Tensor
    """[D + 1] int32, as ``cu_q``."""
    max_q: int
    """At least the queries of the longest segment; a power of two, so that few values occur."""
    max_k: int
    """At least the keys of the longest segment, as ``max_q``."""
    key_rows: Tensor | None = None
    """[S] int64: which rows of the keys of all context ranks are the S keys; None: the own ones."""

    @classmethod
    def of(cls, layout: PackTensors, backend: str) -> "Boundaries":
        """Take the boundaries of ``layout``; never waits for a device."""
        if KERNELS[backend].device_boundaries:
            cu_q, cu_k = layout.cu_seqlens, layout.cu_keys
        else:
            cu_q, cu_k = _starts(layout.lengths), _starts(layout.key_lengths)
        longest = _power_of_two(max(layout.lengths)), _power_of_two(max(layout.key_lengths))
        return cls(cu_q, cu_k, *longest, layout.key_rows)


def _starts(lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor((0, *lengths)).cumsum(0).to(torch.int32)


def _power_of_two(number: int) -> int:
    """Return the smallest power of two that is not below ``number``."""
    return 1 << max(number - 1, 0).bit_length()


class PackedAttention(nn.Module):
    """The attention core of a layer, without parameters: where context parallelism plugs in."""

    def __init__(self, backend: str, head_dim: int) -> None:
        super().__init__()
        if backend not in BACKENDS:
            raise ConfigError(f"attention backend {backend!r} is not one of {_listed()}")
        self.backend = backend
        self.scale = head_dim**-0.5

    def forward(self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, where: Boundaries) -> Tensor:
        """Return the attended values, [T, H, D]."""
        o_THD: Tensor = attend(
            q_THD,
            k_TKD,
            v_TKD,
            where.cu_q,
            where.cu_k,
            where.max_q,
            where.max_k,
            self.scale,
            self.backend,
        )[0]
        return o_THD


def choose_backend(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    *,
    shares: bool = False,
    measure: Measure | None = None,
) -> str:
    """Return the backend called ``name``, or for "auto" the fastest that runs here, and log it.

    ``shares``: a document may have fewer queries than keys (context parallelism). ``measure`` times
    backends; without it, or where only one can run, "auto" takes the first of ``PREFERRED``.

    Raises ``ConfigError`` for an unknown name and for a backend that cannot run here: a backend
    that was asked for is never replaced.
    """
    if name not in ("auto", *BACKENDS):
        raise ConfigError(f"attention backend {name!r} is unknown; known: auto, {_listed()}")
    request = KernelRequest(device, dtype, head_dim, shares)
    obstacles = {backend: kernel.obstacle(request) for backend, kernel in KERNELS.items()}
    able = [backend for backend, obstacle in obstacles.items() if obstacle is None]
    if name in able:
        return name
    if name != "auto":
        known = ", ".join(able)
        raise ConfigError(f"attention={name} cannot run here: {obstacles[name]}; here run: {known}")
    candidates = [backend for backend in able if backend != ORACLE]
    choice = next(backend for backend in PREFERRED if backend in candidates)
    if measure is not None and len(candidates) > 1:
        times = measure(candidates)
        choice = min(times, key=times.__getitem__, default=choice)
        shown = ", ".join(f"{backend} {ms:.3g} ms" for backend, ms in times.items())
        _log.info("attention, forward and backward of a layer: %s", shown)
    _log.info("attention backend: %s (%s, %s, head_dim %d)", choice, device, dtype, head_dim)
    return choice


def _listed() -> str:
    return ", ".join(BACKENDS)


@torch.library.custom_op("longrun::attend", mutates_args=())
def attend(  # noqa: PLR0913, PLR0917 - an op takes tensors and numbers only
    q_THD: Tensor,
    k_SKD: Tensor,
    v_SKD: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    max_q: int,
    max_k: int,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Return (attended values [T, H, D], log-sum-exp of the scores [H, T])."""
    segments = (cu_q, cu_k, max_q, max_k)
    return KERNELS[backend].forward(q_THD, k_SKD, v_SKD, segments, scale)


@torch.library.custom_op("longrun::attend_backward", mutates_args=())
def attend_backward(  # noqa: PLR0913, PLR0917 - as attend
    do_THD: Tensor,
    q_THD: Tensor,
    k_SKD: Tensor,
    v_SKD: Tensor,
    o_THD: Tensor,
    lse_HT: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    max_q: int,
    max_k: int,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v from the gradient of the attended values."""
    segments = (cu_q, cu_k, max_q, max_k)
    saved = (q_THD, k_SKD, v_SKD, o_THD, lse_HT)
    return KERNELS[backend].backward(do_THD.contiguous(), saved, segments, scale)


@attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: Tensor | int | float | str) -> tuple[Tensor, Tensor]:
    lse = q.new_empty(q.shape[1], q.shape[0], dtype=accumulation_dtype(q.dtype))
    return q.new_empty(q.shape), lse


@attend_backward.register_fake
def _(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Tensor | int | float | str
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, cu_q, cu_k, *ctx.numbers = inputs
    ctx.save_for_backward(q, k, v, *output, cu_q, cu_k)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, do: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, o, lse, cu_q, cu_k = ctx.saved_tensors
    grads = attend_backward(do, q, k, v, o, lse, cu_q, cu_k, *ctx.numbers)
    return *grads, None, None, None, None, None, None


attend.register_autograd(_backward, setup_context=_keep_for_backward)
