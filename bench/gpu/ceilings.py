"""What this device reaches at best: matrix products of the model's own sizes, and copies."""

import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch

from gpu.cases import Case, device
from gpu.meter import synchronise

REPEATS = 10
SQUARE = 8192
HEAD_TOKENS = 4096
"""Rows of a product with the output matrix: one chunk of the loss."""


def measure(case: Case, *, smoke: bool) -> dict[str, Any]:
    """Return teraflops of each product and terabytes per second of a copy, read plus written."""
    square, tokens, head = (128, 256, 64) if smoke else (SQUARE, case.longest, HEAD_TOKENS)
    kv = case.kv_heads * case.head_dim
    sizes = {
        f"square {square}": (square, square, square),
        "qkv": (tokens, case.hidden, case.heads * case.head_dim + 2 * kv),
        "o": (tokens, case.heads * case.head_dim, case.hidden),
        "gate and up": (tokens, case.hidden, 2 * case.intermediate),
        "down": (tokens, case.intermediate, case.hidden),
        "output": (head, case.hidden, case.vocab),
    }
    found: dict[str, Any] = {"teraflops": {}}
    for name, (m, k, n) in sizes.items():
        found["teraflops"][name] = _products(m, k, n)
    found["copy_terabytes_per_second"] = _copy(1 << (16 if smoke else 31))
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    found["clocks"] = _clocks()
    return found


def _products(m: int, k: int, n: int) -> dict[str, float]:
    """Return teraflops of the forward product and of the two of the backward pass."""
    where = {"dtype": torch.bfloat16, "device": device()}
    x, weight, dy = (
        torch.randn(m, k, **where),
        torch.randn(n, k, **where),
        torch.randn(m, n, **where),
    )
    operations = 2 * m * k * n / 1e12
    return {
        "forward": operations / median_seconds(lambda: x @ weight.T),
        "input gradient": operations / median_seconds(lambda: dy @ weight),
        "weight gradient": operations / median_seconds(lambda: dy.T @ x),
    }


def _copy(count: int) -> float:
    source = torch.zeros(count, dtype=torch.uint8, device=device())
    target = torch.empty_like(source)
    return 2 * count / median_seconds(lambda: target.copy_(source)) / 1e12


def median_seconds(function: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Return the median time of a call after one that is not timed."""
    function()
    taken = []
    for _ in range(repeats):
        synchronise()
        began = time.perf_counter()
        function()
        synchronise()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _clocks() -> str:
    """Return clock and power as the driver tells them; empty where there is none. Reads only."""
    query = ["nvidia-smi", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
