"""How long the ranks of a step computed and how far the slowest was behind: the measured balance.

What is measured is the time from the first forward pass to the end of the last backward pass,
before the gradients are summed. Ranks that wait for each other inside a step (sharding ``full``)
all take as long as the slowest, so for them it says nothing and is not measured.
"""

import time

import torch

from longrun.parallel.mesh import Mesh, sum_over_ranks


class ComputeTime:
    """The time of this rank's computation in one step; begins when it is made."""

    def __init__(self, device: torch.device) -> None:
        self._events: list[torch.cuda.Event] = []
        self._moments: list[float] = []
        self._on_device = device.type == "cuda"
        self.mark()

    def mark(self) -> None:
        """Note that the device, once it has done what it was told so far, has come this far."""
        if self._on_device:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch
            self._events.append(event)
            self._events[-1].record()
        else:
            self._moments.append(time.perf_counter())

    def seconds(self) -> float:
        """Return the seconds from the first mark to the last; waits for the device."""
        if not self._on_device:
            return self._moments[-1] - self._moments[0]
        self._events[-1].synchronize()
        return float(self._events[0].elapsed_time(self._events[-1])) / 1000


def measured_imbalance(seconds: float, mesh: Mesh) -> float:
    """Return the slowest rank's seconds over the mean of all ranks; collective. 1: nobody waits."""
    own = [seconds if rank == mesh.rank else 0.0 for rank in range(mesh.size)]
    every = sum_over_ranks(own)
    return max(every) / (sum(every) / len(every))
