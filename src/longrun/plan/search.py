"""Every layout of a cluster, with its memory and its time or the reason against it, best first.

Memory is cheap to model and decides first. Time is known for an even deal at once; how long the
slowest rank really takes comes from dealing real batches with the dealing that training uses, which
takes milliseconds each. An even deal is never slower, so layouts are dealt in the order of their
even time, and no more of them than could still be among the best.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import get_args

from longrun.nn.architecture import Arch
from longrun.nn.costs import ModelShape, Recompute, attention_cost, model_flops
from longrun.parallel.layouts import Layout, Sharding, obstacle
from longrun.plan.lengths import Workload
from longrun.plan.memory import StepMemory, StepSettings, step_memory
from longrun.plan.settings import OptimizerName, PlanSettings, States, Weights
from longrun.plan.time import (
    Machine,
    UnitCosts,
    Work,
    optimizer_seconds,
    unit_costs,
    weights_seconds,
)
from longrun.plan.waiting import Dealing
from longrun.training.balance import Ranks

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to train."""

    layout: Layout
    recompute: Recompute
    optimizer: OptimizerName = "adamw"
    states: States = "float32"
    """Type of AdamW's moments."""
    weights: Weights = "float32"

    @property
    def is_coherent(self) -> bool:
        """Say whether the parts go together; see the settings of ``train``."""
        plain = self.optimizer == "adamw" and self.states == "float32"
        whole = self.layout.sharding == "replicate" and self.layout.tensor == 1
        if self.weights == "split":
            return plain and whole
        return self.optimizer == "adamw" or self.states == "float32"


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one optimizer step, modelled; the parts add up to the whole."""

    compute_seconds: float
    """Products, attention and pointwise operations of an average rank."""
    talking_seconds: float
    """Exchange of activations with tensor and context peers."""
    waiting_seconds: float
    """An average rank waits for the slowest."""
    weights_seconds: float
    """Fetching weights and summing gradients, as far as it is not hidden."""
    optimizer_seconds: float

    @property
    def seconds(self) -> float:
        """The whole step."""
        return (
            self.compute_seconds
            + self.talking_seconds
            + self.waiting_seconds
            + self.weights_seconds
            + self.optimizer_seconds
        )


@dataclass(frozen=True, slots=True)
class Option:
    """A choice with what it costs, or why it cannot be."""

    choice: Choice
    memory: StepMemory | None = None
    time: StepTime | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer."""

    ranked: list[Option]
    """With memory and time, fastest first."""
    rejected: list[Option]
    """With a reason."""
    num_slower: int
    """Layouts that fit and are not ranked because they are slower than those that are."""


class Planner:
    """Models the choices of one model, workload and cluster."""

    def __init__(self, arch: Arch, workload: Workload, settings: PlanSettings) -> None:
        self.arch = arch
        self.shape = ModelShape.of(arch)
        self.workload = workload
        self.settings = settings
        self.machine = Machine(
            rates=settings.rates.filled(settings.gpu), node_size=settings.num_processes
        )
        self.num_ranks = settings.num_nodes * settings.num_processes
        self._dealing = Dealing(workload, attention_cost(self.shape), settings.balance)

    @cached_property
    def usable_bytes(self) -> float:
        """Bytes of a GPU that a plan may fill."""
        return self.machine.rates.memory_gib * GIB * self.settings.memory_share

    def plan(self, best: int | None) -> Plan:
        """Rank the ``best`` fastest layouts that differ in more than details; None: all that fit.

        Details are how far a copy of the weights is spread and what is computed again.
        """
        fitting: list[Option] = []
        rejected: list[Option] = []
        for choice in self.choices():
            option = self.weigh(choice)
            (rejected if option.reason else fitting).append(option)
        ordered = [(self._even_seconds(option.choice), option) for option in fitting]
        ordered.sort(key=lambda pair: (pair[0], _simple(pair[1])))
        if best is None:
            timed = [self._timed(option) for _, option in ordered]
            return Plan(sorted(timed, key=_by_time), rejected, 0)
        ranked = self._fastest(ordered, best)
        return Plan(ranked, rejected, len(fitting) - len(ranked))

    def _fastest(self, ordered: list[tuple[float, Option]], best: int) -> list[Option]:
        """Return the fastest option of each of the ``best`` families."""
        found: dict[tuple[tuple[object, ...], ...], Option] = {}
        for even, option in ordered:
            fastest = sorted(found.values(), key=_by_time)[:best]
            if len(fastest) == best and _seconds(fastest[-1]) <= even:
                break
            choice = option.choice
            family = (
                (choice.layout.tensor, choice.layout.context, choice.layout.sharding),
                (choice.optimizer, choice.states, choice.weights),
            )
            if family in found and _seconds(found[family]) <= even:
                continue
            timed = self._timed(option)
            found[family] = min(timed, found.get(family, timed), key=_by_time)
        return sorted(found.values(), key=_by_time)[:best]

    def _timed(self, option: Option) -> Option:
        return replace(option, time=self.time(option.choice))

    def choices(self) -> Iterator[Choice]:
        """Yield every choice that the settings leave open, legal or not."""
        fixed = self.settings
        tensors = _divisors(fixed.num_processes)
        contexts = _divisors(self.num_ranks)
        if fixed.tensor_parallel is not None:
            tensors = [fixed.tensor_parallel]
        if fixed.context_parallel is not None:
            contexts = [fixed.context_parallel]
        shardings = [fixed.sharding] if fixed.sharding else list(get_args(Sharding))
        for tensor in tensors:
            for context in contexts:
                for sharding in shardings:
                    for shard_size in self._shard_sizes(tensor, context, sharding):
                        layout = Layout(
                            num_ranks=self.num_ranks,
                            tensor=tensor,
                            context=context,
                            sharding=sharding,
                            shard_size=shard_size,
                        )
                        yield from self._policies(layout)

    def _policies(self, layout: Layout) -> Iterator[Choice]:
        """Yield what may be computed again and how the optimizer holds its states."""
        fixed = self.settings
        recomputes = [fixed.recompute] if fixed.recompute else list(get_args(Recompute))
        kinds = product(recomputes, fixed.optimizers, fixed.states, fixed.weights)
        for kind in kinds:
            choice = Choice(layout, *kind)
            if choice.is_coherent and (choice.weights == "float32" or fixed.dtype == "bfloat16"):
                yield choice

    def _shard_sizes(self, tensor: int, context: int, sharding: Sharding) -> list[int | None]:
        """Return one machine, 2, 4 ... machines, and all ranks (None).

        Nothing where a rank has nobody to share with: that is ``replicate``.
        """
        if sharding == "replicate":
            return [None]
        if self.settings.shard_size:
            return [self.settings.shard_size]
        if self.num_ranks == tensor:
            return []
        sharers, size = self.num_ranks // (tensor * context) * context, self.settings.num_processes
        sizes: list[int | None] = [None]
        while (shard_size := size // tensor) < sharers:
            if shard_size > 1 and sharers % shard_size == 0:
                sizes.append(shard_size)
            size *= 2
        return sizes

    def weigh(self, choice: Choice) -> Option:
        """Return ``choice`` with its memory, and with a reason if it cannot be."""
        layout = choice.layout
        if layout.tensor > self.settings.num_processes:
            reason = f"tensor {layout.tensor} spans machines of {self.settings.num_processes} GPUs"
            return Option(choice, reason=reason)
        problem = obstacle(layout, self.arch)
        if problem is not None:
            return Option(choice, reason=problem)
        if layout.data > self.settings.global_batch_size:
            reason = f"data {layout.data} is more than the {self.settings.global_batch_size} packs"
            return Option(choice, reason=f"{reason} of a batch")
        memory = step_memory(self.shape, layout, self._step_settings(choice))
        if memory.total_bytes > self.usable_bytes:
            needs, has = memory.total_bytes / GIB, self.usable_bytes / GIB
            return Option(choice, memory, reason=f"needs {needs:.1f} GiB of {has:.1f}")
        return Option(choice, memory)

    def time(self, choice: Choice) -> StepTime:
        """Return the modelled time of a step."""
        dealt = self._dealing.deal(Ranks.of(choice.layout))
        unit = self._unit(choice)
        even = self._mean_seconds(choice.layout, unit)
        talking = self.workload.tokens_per_step * unit.talking_per_token / choice.layout.data
        return StepTime(
            compute_seconds=even - talking,
            talking_seconds=talking,
            waiting_seconds=dealt.slowest_seconds(unit) - even,
            weights_seconds=self._weights_seconds(choice, even, dealt.micro_steps),
            optimizer_seconds=optimizer_seconds(self.shape, choice.layout, self.machine),
        )

    def tokens_per_second(self, option: Option) -> float:
        """Return tokens per second of all GPUs."""
        return self.workload.tokens_per_step / _seconds(option)

    def flops_utilization(self, option: Option) -> float:
        """Return MFU: the model's operations per second over the datasheet's."""
        flops = model_flops(self.shape, self.workload.effective_length)
        peak = self.num_ranks * self.machine.rates.peak_tflops * 1e12
        return self.tokens_per_second(option) * flops / peak

    def days(self, option: Option) -> float | None:
        """Return days of the whole training; None: nobody said how long it is."""
        steps = self.workload.num_steps
        return None if steps is None else steps * _seconds(option) / 86400

    def _step_settings(self, choice: Choice) -> StepSettings:
        return StepSettings(
            pack_tokens=self.workload.pack_size,
            recompute=choice.recompute,
            optimizer=choice.optimizer,
            states=choice.states,
            weights=choice.weights,
            compute_bytes=self._work(choice).element_bytes,
            compiled=self.settings.compile,
            loss_chunk_tokens=self.settings.loss_chunk_tokens,
            micro_steps=-(-self.settings.global_batch_size // choice.layout.data),
        )

    def _work(self, choice: Choice) -> Work:
        return Work(
            recompute=choice.recompute,
            element_bytes=2 if self.settings.dtype == "bfloat16" else 4,
            compiled=self.settings.compile,
        )

    def _unit(self, choice: Choice) -> UnitCosts:
        return unit_costs(self.shape, choice.layout, self._work(choice), self.machine)

    def _mean_seconds(self, layout: Layout, unit: UnitCosts) -> float:
        """Return the seconds of an average rank, without waiting."""
        tokens = self.workload.tokens_per_step
        squares = tokens * self.workload.effective_length
        return (tokens * unit.per_token + squares * unit.per_square) / layout.data

    def _even_seconds(self, choice: Choice) -> float:
        """Return the seconds of a step if the deal were even: never more than they are."""
        layout = choice.layout
        even = self._mean_seconds(layout, self._unit(choice))
        micro_steps = -(-self.settings.global_batch_size // layout.data)
        weights = self._weights_seconds(choice, even, micro_steps)
        return even + weights + optimizer_seconds(self.shape, layout, self.machine)

    def _weights_seconds(self, choice: Choice, even: float, micro_steps: int) -> float:
        return weights_seconds(
            self.shape,
            choice.layout,
            self._work(choice),
            self.machine,
            micro_steps=micro_steps,
            compute_seconds=even / micro_steps,
        )


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def _seconds(option: Option) -> float:
    assert option.time is not None
    return option.time.seconds


def _by_time(option: Option) -> tuple[float, ...]:
    return (_seconds(option), *_simple(option))


def _simple(option: Option) -> tuple[float, ...]:
    """Order equal times: fewer cuts first, then less memory."""
    memory = option.memory.total_bytes if option.memory else 0
    return option.choice.layout.tensor, option.choice.layout.context, memory
