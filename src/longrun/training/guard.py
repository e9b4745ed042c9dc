"""What happens to a step whose loss or gradient is out of bounds: stop, skip it, or only say so.

Two rules, both on numbers that are equal on every rank. A loss or a gradient norm that is not
finite. And a spike: a loss above ``spike_factor`` times the median loss of the last
``spike_window`` steps that were taken, once there are that many. With a window of 3 and a factor
of 2::

    loss      2.0  1.8  1.9  1.7  4.0  1.8
    median     -    -    -   1.9  1.8  1.8      4.0 > 2 * 1.8: a spike

A skipped step changes neither weights nor moments, and its loss is not remembered. Its batch and
its place in the schedule are used up.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Literal

from longrun.config.training import GuardSettings


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a step is not as it should be, and what is done about it."""

    action: Literal["stop", "skip", "log"]
    reason: str


class Guard:
    """The two rules, and what they remember from step to step."""

    def __init__(self, settings: GuardSettings, recent_losses: Iterable[float], skips: int) -> None:
        """Go on from ``recent_losses`` of taken steps, oldest first, and ``skips`` in a row."""
        self._settings = settings
        self.recent_losses = list(recent_losses)
        self.skips = skips

    def judge(self, loss: float, grad_norm: float) -> Fault | None:
        """Judge a step before it changes anything; None: it is as it should be."""
        settings = self._settings
        fault = None
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            reason = f"loss {loss} and gradient norm {grad_norm} are not both finite"
            fault = Fault(settings.non_finite, reason)
        elif settings.spike_factor is not None and self._window_is_full():
            usual = median(self.recent_losses)
            if loss > settings.spike_factor * usual:
                reason = (
                    f"loss {loss:.4g} is above {settings.spike_factor:g} times {usual:.4g}, the"
                    f" median of the last {settings.spike_window} steps"
                )
                fault = Fault(settings.on_spike, reason)
        if fault is not None and fault.action == "skip" and self.skips >= settings.max_skips:
            bound = f"after {self.skips} skipped steps in a row (train.guard.max_skips)"
            return Fault("stop", f"{fault.reason}, {bound}")
        return fault

    def remember(self, loss: float, *, taken: bool) -> None:
        """Note what became of a step."""
        if not taken:
            self.skips += 1
            return
        self.skips = 0
        if self._settings.spike_factor is not None:
            window = self._settings.spike_window
            self.recent_losses = [*self.recent_losses, loss][-window:]

    def _window_is_full(self) -> bool:
        return len(self.recent_losses) >= self._settings.spike_window
