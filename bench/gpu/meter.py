"""Wall time of each step with the device waited for, and peak memory of the device."""

import statistics
import time
from dataclasses import asdict
from typing import Any

import torch

from gpu.cases import Case, Phase, untimed
from longrun.nn.costs import ModelShape, effective_length, hardware_flops, model_flops

DATASHEET_FLOPS = 989e12
"""Dense bfloat16 of H100 and H200 (SXM)."""


def synchronise() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Meter:
    """A stopwatch for one phase of one contender."""

    def __init__(self) -> None:
        self._began = 0.0
        self.seconds: list[float] = []
        self.losses: list[float] = []
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def start(self) -> None:
        """Begin a step."""
        synchronise()
        self._began = time.perf_counter()

    def stop(self) -> None:
        """End a step."""
        synchronise()
        self.seconds.append(time.perf_counter() - self._began)

    def report(self, case: Case, phase: Phase, recompute: str) -> dict[str, Any]:
        """Return rates and rates of work over the timed steps, and what memory was used."""
        first = untimed(case, phase[0])
        steps = [[n for pack in step for n in pack] for step in phase[1]][first:]
        tokens = [sum(step) for step in steps]
        shape = ModelShape.from_hf(case.config())
        lengths = effective_length(n for step in steps for n in step)
        per_second = sum(tokens) / sum(self.seconds[first:])
        model, hardware = (
            model_flops(shape, lengths),
            hardware_flops(shape, lengths, "full" if recompute == "full" else "none"),
        )
        milliseconds = sorted(1e3 * second for second in self.seconds[first:])
        return {
            "tokens_per_second": per_second,
            "median_ms": statistics.median(milliseconds),
            "quartiles_ms": [
                milliseconds[len(milliseconds) // 4],
                milliseconds[-1 - len(milliseconds) // 4],
            ],
            "first_step_seconds": self.seconds[0],
            "effective_length": lengths,
            "model_teraflops": per_second * model / 1e12,
            "mfu_989": per_second * model / DATASHEET_FLOPS,
            "hfu_989": per_second * hardware / DATASHEET_FLOPS,
            "losses": self.losses,
            "seconds": self.seconds,
            **_memory(),
        }


def _memory() -> dict[str, int]:
    if not torch.cuda.is_available():
        return {"peak_allocated": 0, "peak_reserved": 0}
    return {
        "peak_allocated": torch.cuda.max_memory_allocated(),
        "peak_reserved": torch.cuda.max_memory_reserved(),
    }


def case_as_dict(case: Case) -> dict[str, Any]:
    """Return the case as JSON can hold it."""
    return asdict(case)
