"""Learning-rate schedules: pure functions from an optimizer step to a learning rate.

A schedule never sees an optimizer. The loop asks for the rate once per step and hands it on, so
a resumed run needs the number of the step and nothing else. Steps count from 0: the step with
index ``n`` is trained at ``schedule(n)``.

With ``warmup_steps`` 2 and ``max_steps`` 6, peak 3 and floor 0 the cosine gives::

    step   0  1  2  3     4    5     6  7 ...
    rate   1  2  3  2.56  1.5  0.44  0  0
"""

import math
from dataclasses import dataclass
from typing import Protocol

from longrun.config.training import OptimizerSettings
from longrun.errors import ConfigError


class Schedule(Protocol):
    """A function from the index of a step to its learning rate."""

    def __call__(self, step: int) -> float:
        """Return the learning rate at which the step with index ``step`` is trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    """Climb linearly to ``peak_lr`` and stay there."""

    peak_lr: float
    warmup_steps: int = 0
    """Optimizer steps of the climb; 0 starts at the peak."""

    def __call__(self, step: int) -> float:
        """Return the learning rate at which the step with index ``step`` is trained."""
        return _climb(self.peak_lr, self.warmup_steps, step)


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmupLinear:
    """Climb linearly to ``peak_lr``, fall along a line to ``min_lr``, stay there."""

    peak_lr: float
    min_lr: float
    warmup_steps: int
    """Optimizer steps of the climb; 0 starts at the peak."""
    max_steps: int
    """Optimizer step at which ``min_lr`` is reached."""

    def __call__(self, step: int) -> float:
        """Return the learning rate at which the step with index ``step`` is trained."""
        if step <= self.warmup_steps:
            return _climb(self.peak_lr, self.warmup_steps, step)
        left = 1.0 - _fallen(self.warmup_steps, self.max_steps, step)
        return self.min_lr + (self.peak_lr - self.min_lr) * left


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmupCosine:
    """Climb linearly to ``peak_lr``, fall along half a cosine to ``min_lr``, stay there.

    The climb starts at ``peak_lr / (warmup_steps + 1)`` so that no step is wasted.
    Source: Loshchilov & Hutter 2017 (arXiv:1608.03983), eq. 5, without restarts.
    """

    peak_lr: float
    min_lr: float
    warmup_steps: int
    """Optimizer steps of the climb; 0 starts at the peak."""
    max_steps: int
    """Optimizer step at which ``min_lr`` is reached."""

    def __call__(self, step: int) -> float:
        """Return the learning rate at which the step with index ``step`` is trained."""
        if step <= self.warmup_steps:
            return _climb(self.peak_lr, self.warmup_steps, step)
        left = 0.5 * (1.0 + math.cos(math.pi * _fallen(self.warmup_steps, self.max_steps, step)))
        return self.min_lr + (self.peak_lr - self.min_lr) * left


def build_schedule(settings: OptimizerSettings, max_steps: int) -> Schedule:
    """Build the schedule of a training of ``max_steps`` optimizer steps.

    Raises:
        ConfigError: the climb would take the whole training.
    """
    if settings.warmup_steps >= max_steps:
        raise ConfigError(
            f"train.optimizer.warmup_steps: {settings.warmup_steps} is not below the {max_steps}"
            " steps of this training; lower it or train longer"
        )
    if settings.schedule == "constant":
        return Constant(peak_lr=settings.lr, warmup_steps=settings.warmup_steps)
    kind = WarmupCosine if settings.schedule == "cosine" else WarmupLinear
    return kind(
        peak_lr=settings.lr,
        min_lr=settings.min_lr,
        warmup_steps=settings.warmup_steps,
        max_steps=max_steps,
    )


def _climb(peak_lr: float, warmup_steps: int, step: int) -> float:
    return peak_lr * min(1.0, (step + 1) / (warmup_steps + 1))


def _fallen(warmup_steps: int, max_steps: int, step: int) -> float:
    """Return the share of the way down that lies behind ``step``, at most 1."""
    return min(1.0, (step - warmup_steps) / (max_steps - warmup_steps))
