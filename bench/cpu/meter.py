"""Time, memory and loss of each step of one contender."""

import resource
import time
from pathlib import Path
from typing import Any

PAGE_BYTES = resource.getpagesize()


class Meter:
    """A stopwatch that a contender starts before each step and stops after it."""

    def __init__(self) -> None:
        self._resident = _resident_bytes()
        self._began = (0.0, 0.0)
        self._cpu: list[float] = []
        self._wall: list[float] = []
        self.losses: list[float] = []

    def start(self) -> None:
        """Begin a step."""
        self._began = time.process_time(), time.perf_counter()

    def stop(self) -> None:
        """End a step."""
        self._cpu.append(time.process_time() - self._began[0])
        self._wall.append(time.perf_counter() - self._began[1])

    def report(self, tokens: list[int], warmup: int) -> dict[str, Any]:
        """Return what was measured; ``tokens``: of each step, without padding."""
        timed = sum(tokens[warmup:])
        return {
            "cpu_tokens_per_second": timed / sum(self._cpu[warmup:]),
            "wall_tokens_per_second": timed / sum(self._wall[warmup:]),
            "cpu_seconds": self._cpu,
            "wall_seconds": self._wall,
            "losses": self.losses,
            "tokens": tokens,
            "peak_bytes": _peak_bytes(),
            "peak_rise_bytes": _peak_bytes() - self._resident,
        }


def _peak_bytes() -> int:
    """Return the largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES
