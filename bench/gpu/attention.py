"""Attention backends alone: time, rate, error and repeatability, on packs of 32,768 tokens."""

from typing import Any

import torch
from torch import Tensor

from gpu.cases import MIX, Case, device
from gpu.ceilings import median_seconds
from longrun.nn.attention import attend, attend_backward
from longrun.nn.kernels import KERNELS, KernelRequest

HEADS = ((12, 2), (28, 4), (40, 8))
"""(query heads, key-value heads) of the 1.5B, 7B, and 14B and 32B."""
HEAD_DIM = 128
REPEATS = 7


def measure(case: Case, *, smoke: bool) -> list[dict[str, Any]]:
    """Return one row per backend, pack and heads; a backend that cannot run says why."""
    packs = {
        "4-document mix": MIX[3],
        "16 short": (2048,) * 16,
        "1 document": (32768,),
    }
    heads, head_dim = HEADS, HEAD_DIM
    if smoke:
        packs = {"4-document mix": (90, 60, 40, 66), "1 document": (256,)}
        heads, head_dim = ((4, 2),), 16
    rows = []
    for backend, kernel in KERNELS.items():
        obstacle = kernel.obstacle(KernelRequest(device(), torch.bfloat16, head_dim))
        if obstacle is not None or (backend == "reference" and not smoke):
            rows.append({"backend": backend, "skipped": obstacle or "it is the yardstick"})
            continue
        for name, lengths in packs.items():
            for counts in heads:
                row = {"backend": backend, "pack": name, "heads": "/".join(map(str, counts))}
                rows.append({**row, **_row(backend, lengths, counts, head_dim)})
    return rows


def _row(
    backend: str, lengths: tuple[int, ...], heads: tuple[int, int], head_dim: int
) -> dict[str, Any]:
    inputs, rest = _draw(backend, lengths, heads, head_dim)
    do, q, k, v = inputs
    try:
        o, lse = attend(q, k, v, *rest)
        gradients = attend_backward(do, q, k, v, o, lse, *rest)
        again = attend_backward(do, q, k, v, *attend(q, k, v, *rest), *rest)
        forward = median_seconds(lambda: attend(q, k, v, *rest), REPEATS)
        backward = median_seconds(lambda: attend_backward(do, q, k, v, o, lse, *rest), REPEATS)
    except (RuntimeError, AssertionError) as problem:
        return {"problem": str(problem)}
    operations = 2 * sum(n * n for n in lengths) * heads[0] * head_dim / 1e12
    return {
        "forward_ms": 1e3 * forward,
        "backward_ms": 1e3 * backward,
        "forward_teraflops": operations / forward,
        "backward_teraflops": 2.5 * operations / backward,
        "repeats_bitwise": all(map(torch.equal, gradients, again)),
        **_errors(backend, heads, head_dim),
    }


def _draw(
    backend: str, lengths: tuple[int, ...], heads: tuple[int, int], head_dim: int
) -> tuple[list[Tensor], tuple[Any, ...]]:
    generator = torch.Generator(device()).manual_seed(0)
    counts = (heads[0], heads[0], heads[1], heads[1])
    inputs = [
        torch.randn(
            sum(lengths), n, head_dim, generator=generator, device=device(), dtype=torch.bfloat16
        )
        for n in counts
    ]
    where = device() if KERNELS[backend].device_boundaries else "cpu"
    cu = torch.tensor((0, *lengths)).cumsum(0).to(where, torch.int32)
    return inputs, (cu, cu, max(lengths), max(lengths), head_dim**-0.5, backend)


def _errors(backend: str, heads: tuple[int, int], head_dim: int) -> dict[str, float]:
    """Return relative errors against float32 formulas, on documents that fit those."""
    lengths = (700, 1, 95, 1300) if head_dim == HEAD_DIM else (30, 1, 65)
    found = {}
    for name in (backend, "reference"):
        (do, q, k, v), rest = _draw(name, lengths, heads, head_dim)
        if name == "reference":
            do, q, k, v = (x.float() for x in (do, q, k, v))
        o, lse = attend(q, k, v, *rest)
        found[name] = [o, *attend_backward(do, q, k, v, o, lse, *rest)]
    pairs = zip(found[backend], found["reference"], strict=True)
    errors = [float((one.float() - exact).norm() / exact.norm()) for one, exact in pairs]
    return dict(zip(("error_o", "error_dq", "error_dk", "error_dv"), errors, strict=True))
