"""Time attention backends on the lengths of a real pack, so that "auto" takes the fastest.

One layer, forward and backward, on random numbers. A backend is timed only if its result agrees
with that of the first one: the fastest kernel is worth nothing when it computes something else.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from longrun.nn.attention import attend, attend_backward
from longrun.nn.kernels import KERNELS

REPEATS = 5
"""Timed passes of each backend, after one that compiles; the median counts."""
LARGEST_DIFFERENCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}
"""Relative norm of the difference to the first backend that rounding explains."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Heads:
    """The attention of one layer on one rank."""

    num_heads: int
    num_kv_heads: int
    head_dim: int


def time_backends(
    names: Sequence[str],
    lengths: Sequence[tuple[int, int]],
    heads: Heads,
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, float]:
    """Return the milliseconds of forward and backward of each backend that computes the same.

    ``lengths``: (queries, keys) of every document. The first of ``names`` sets what is right and is
    always in the result. A backend that fails or differs is left out and the reason is logged.
    """
    inputs = _draw(lengths, heads, dtype, device)
    times: dict[str, float] = {}
    expected: list[Tensor] | None = None
    for name in names:
        try:
            found = _pass(name, inputs, lengths, heads)
        except (RuntimeError, AssertionError, TypeError) as problem:
            if expected is None:
                raise
            _log.warning("attention backend %s left out: it fails here: %s", name, problem)
            continue
        expected = expected or found
        difference = max(map(_difference, found, expected))
        if not difference <= LARGEST_DIFFERENCE[dtype]:
            _log.warning(
                "attention backend %s left out: it differs from %s by %.2g (bound %g)",
                name,
                names[0],
                difference,
                LARGEST_DIFFERENCE[dtype],
            )
            continue
        times[name] = _median_ms(name, inputs, lengths, heads)
    return times


def _draw(
    lengths: Sequence[tuple[int, int]], heads: Heads, dtype: torch.dtype, device: torch.device
) -> list[Tensor]:
    """Draw (do, q, k, v)."""
    num_q, num_k = (sum(counts) for counts in zip(*lengths, strict=True))
    generator = torch.Generator(device).manual_seed(0)
    shapes = 2 * [(num_q, heads.num_heads)] + 2 * [(num_k, heads.num_kv_heads)]
    return [
        torch.randn(*shape, heads.head_dim, generator=generator, dtype=dtype, device=device)
        for shape in shapes
    ]


def _pass(
    name: str, inputs: list[Tensor], lengths: Sequence[tuple[int, int]], heads: Heads
) -> list[Tensor]:
    """Return (o, dq, dk, dv)."""
    do, q, k, v = inputs
    counts_q, counts_k = zip(*lengths, strict=True)
    place = q.device if KERNELS[name].device_boundaries else "cpu"
    cu_q, cu_k = (
        torch.tensor((0, *counts)).cumsum(0).to(place, torch.int32)
        for counts in (counts_q, counts_k)
    )
    rest = (cu_q, cu_k, max(counts_q), max(counts_k), heads.head_dim**-0.5, name)
    o, lse = attend(q, k, v, *rest)
    return [o, *attend_backward(do, q, k, v, o, lse, *rest)]


def _difference(found: Tensor, expected: Tensor) -> float:
    difference = torch.linalg.vector_norm(found - expected, dtype=torch.float32)
    norm = torch.linalg.vector_norm(expected, dtype=torch.float32)
    return float(difference / norm.clamp_min(torch.finfo(torch.float32).tiny))


def _median_ms(
    name: str, inputs: list[Tensor], lengths: Sequence[tuple[int, int]], heads: Heads
) -> float:
    taken = []
    for _ in range(REPEATS):
        _synchronise(inputs[0])
        began = time.perf_counter()
        _pass(name, inputs, lengths, heads)
        _synchronise(inputs[0])
        taken.append(time.perf_counter() - began)
    return sorted(taken)[REPEATS // 2] * 1e3


def _synchronise(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
