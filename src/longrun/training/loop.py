"""The time of a training: steps, validations, saves, stops and what is logged of them.

Moments after a step, always in this order: metrics, validation, save. A checkpoint therefore
stands after everything that its step wrote, and a training that continues from it writes the same
lines again. The save itself goes on in the background. The mathematics of a step is in ``step``.
"""

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from longrun.checkpoint.saving import Retention, Saver
from longrun.checkpoint.sharded import (
    AVERAGE_PREFIX,
    MODEL_PREFIX,
    OPTIMIZER_PREFIX,
    LoopState,
    find_checkpoints,
    load_checkpoint,
    read_state,
)
from longrun.config.training import TrainConfig
from longrun.errors import InputError, LongrunError, StaleError
from longrun.formats.plans import PackSet
from longrun.formats.stages import fingerprint
from longrun.formats.stages.stage import differences
from longrun.optim.optimizers import Optimizers
from longrun.optim.running_average import RunningAverage
from longrun.optim.schedules import Schedule
from longrun.parallel.context import lay_out
from longrun.parallel.data import Distributed
from longrun.parallel.layouts import Layout
from longrun.parallel.mesh import Mesh, any_rank, broadcast_object
from longrun.training.balance import Deal, Ranks
from longrun.training.batches import PackId, PackLine
from longrun.training.compute_time import ComputeTime, measured_imbalance
from longrun.training.guard import Guard
from longrun.training.prefetch import Prefetch
from longrun.training.readers import HeldOutReader, PackReader
from longrun.training.recorder import Recorder, StepNumbers
from longrun.training.step import MicroStep, compute_gradients, count, filler
from longrun.training.validation import validate

MAX_ORIGINS = 6
"""Source lines that an error names."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Everything that a training is made of, on one rank."""

    config: TrainConfig
    mesh: Mesh
    model: Distributed
    optimizers: Optimizers
    schedule: Schedule
    batches: PackLine
    num_steps: int
    average: RunningAverage | None
    packs: PackReader
    held_out: HeldOutReader

    def tensors(self) -> dict[str, Tensor]:
        """Return this rank's part of everything that a checkpoint holds.

        Not copies, but for weights that are split: see ``take``.
        """
        named = self.model.model.named_parameters()
        tensors = {MODEL_PREFIX + name: parameter.detach() for name, parameter in named}
        if self.optimizers.split is not None:
            for name, weights in self.optimizers.split.whole().items():
                tensors[MODEL_PREFIX + name] = weights
        for name, moment in self.optimizers.state().items():
            tensors[OPTIMIZER_PREFIX + name] = moment
        if self.average is not None:
            for name, mean in self.average.state().items():
                tensors[AVERAGE_PREFIX + name] = mean
        return tensors

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what was loaded into ``tensors`` and is not in place already."""
        if self.optimizers.split is not None:
            named = {name.removeprefix(MODEL_PREFIX): value for name, value in tensors.items()}
            self.optimizers.split.take(named)

    def description(self) -> dict[str, Any]:
        """Say what this training is, so that a checkpoint of another one is known; collective."""
        found: dict[str, Any] = {}
        if self.mesh.rank == 0:
            documents = PackSet.open(self.config.packs).source
            places = {
                "packs": self.config.packs,
                "documents": documents,
                "model": self.config.model,
            }
            found = self.config.identity() | {"steps": self.num_steps}
            found |= {name: fingerprint.of_path(place, name) for name, place in places.items()}
        return broadcast_object(found)


def resume(training: Training) -> LoopState:
    """Load the newest checkpoint, if there is one, and return where it stands; or step 0.

    Raises:
        StaleError: the checkpoint is of a training with other settings, data or model.
        InputError: it is damaged.
    """
    if training.config.optimizer.states != "float32":
        kind = training.config.optimizer.states
        log.info("train: optimizer states in %s: other numbers than with float32", kind)
    description = training.description()
    found = find_checkpoints(training.config.output_dir)
    training.optimizers.allocate()
    if not found:
        return LoopState(0, 0, 0, training=description)
    path = list(found.values())[-1]
    changed = differences(read_state(path).training, description, "train")
    if changed:
        raise StaleError(
            f"{path}: belongs to another training: {'; '.join(changed)}. Name another output_dir"
        )
    tensors = training.tensors()
    state = load_checkpoint(path, tensors, training.mesh)
    training.take(tensors)
    if (state.epoch, state.position) != training.batches.place(state.step):
        raise InputError.at(path, None, f"stands at {state}, where {state.step} steps do not lead")
    log.info("train: continues after step %d: %s", state.step, path)
    return state


def train(training: Training, state: LoopState, stop_requested: Callable[[], bool]) -> int:
    """Train on from ``state`` and return how many steps are finished now.

    Returns early, with everything saved, once a stop was requested on any rank.

    Raises:
        LongrunError: loss or gradient is out of bounds; the step and the source lines are named.
        ResourceError: a save failed; the checkpoints before it are untouched.
    """
    config, saved = training.config, state.step
    _announce(training)
    with ExitStack() as open_files:
        recorder = Recorder(training, state.step, open_files)
        saver = _open_saver(training, open_files)
        prefetched = open_files.enter_context(_prefetch(training, state.step))
        guard = Guard(config.guard, state.recent_losses, state.skips)
        while state.step < training.num_steps:
            if any_rank(stop_requested() or saver.failed):
                break
            numbers = _one_step(training, state, prefetched, guard)
            recorder.step(state.step, numbers)
            state = _after(training, state, numbers, guard)
            if _due(state.step, config.validation_interval, training.num_steps):
                _validate(training, recorder, state.step)
            if _due(state.step, config.save_interval, training.num_steps, config.keep_steps):
                _save(training, saver, recorder, state)
                saved = state.step
        saver.wait()
        if saved < state.step:
            _save(training, saver, recorder, state)
            saver.wait()
    return state.step


@dataclass(frozen=True, slots=True)
class RankBatch:
    """A batch as this rank sees it."""

    dealt: Deal
    """Which rank computes which documents; equal on every rank."""
    micro_steps: list[MicroStep]
    """This rank's, filled up to the most of any rank."""


def rank_batch(training: Training, batch: list[PackId]) -> RankBatch:
    """Deal ``batch`` and lay out this rank's share of it.

    Reads files and copies to the device; in a thread of its own.
    """
    mesh, config = training.mesh, training.config
    dealt = training.packs.deal(batch, Ranks.of(Layout.of(config)), config.balance)
    first = dealt.first_slot(mesh.data_rank)
    own = [
        MicroStep(first + index, lay_out(training.packs.read_documents(documents), mesh))
        for index, documents in enumerate(dealt.hands[mesh.data_rank])
    ]
    return RankBatch(dealt, own + [filler(mesh)] * (dealt.most_micro_steps - len(own)))


def _one_step(
    training: Training, state: LoopState, prefetched: Prefetch[RankBatch], guard: Guard
) -> StepNumbers:
    """Train the step after ``state``."""
    began = time.perf_counter()
    config, batch = training.config, prefetched.take()
    dealt, waited = batch.dealt, time.perf_counter() - began
    counts = count(batch.micro_steps, training.mesh)
    if not counts.weight > 0:
        names = _named(training, dealt.documents(range(dealt.num_micro_steps)))
        raise InputError(f"step {state.step + 1}: no token is supervised in {names}")
    computing = ComputeTime(training.mesh.device)
    gradients = compute_gradients(
        training.model,
        training.mesh,
        batch.micro_steps,
        num_packs=dealt.num_micro_steps,
        weight=counts.weight,
        chunk_tokens=config.loss_chunk_tokens,
        clip_norm=config.optimizer.clip_norm or math.inf,
        computed=computing.mark,
    )
    documents = dealt.documents(gradients.bad_slots())
    skipped = _consult(training, state, guard, gradients.loss, gradients.grad_norm, documents)
    lr = training.schedule(state.step)
    if skipped is None:
        training.optimizers.step(lr)
        if training.average is not None:
            training.average.update(state.updates + 1)
    return StepNumbers(
        loss=gradients.loss,
        grad_norm=gradients.grad_norm,
        lr=lr,
        tokens=counts.tokens,
        supervised_tokens=counts.supervised_tokens,
        packs=training.batches.start(state.step + 1) - training.batches.start(state.step),
        seconds=time.perf_counter() - began,
        wait_seconds=waited,
        skipped=skipped,
        **_imbalance(training, dealt, computing),
    )


def _imbalance(training: Training, dealt: Deal, computing: ComputeTime) -> dict[str, float]:
    """Return how unevenly the step was dealt, modelled and measured; collective."""
    ranks = Ranks.of(Layout.of(training.config))
    if ranks.size == 1:
        return {}
    numbers = {"modelled_imbalance": dealt.imbalance(ranks.waiting)}
    if ranks.waiting == 1:
        numbers["measured_imbalance"] = measured_imbalance(computing.seconds(), training.mesh)
    return numbers


def _consult(
    training: Training,
    state: LoopState,
    guard: Guard,
    loss: float,
    grad_norm: float,
    documents: list[int],
) -> str | None:
    """Return why the step is to be skipped; None: take it."""
    fault = guard.judge(loss, grad_norm)
    if fault is None:
        return None
    said = f"step {state.step + 1}: {fault.reason} in {_named(training, documents)}"
    if fault.action == "stop":
        raise LongrunError(
            f"{said}; inspect these records, lower optimizer.lr or set optimizer.clip_norm."
            " Nothing was changed by this step"
        )
    log.warning("train: %s%s", said, "; skipped" if fault.action == "skip" else "")
    return said if fault.action == "skip" else None


def _after(training: Training, state: LoopState, numbers: StepNumbers, guard: Guard) -> LoopState:
    """Return where the training stands after the step with ``numbers``."""
    taken = numbers.skipped is None
    guard.remember(numbers.loss, taken=taken)
    epoch, position = training.batches.place(state.step + 1)
    return replace(
        state,
        step=state.step + 1,
        epoch=epoch,
        position=position,
        updates=state.updates + taken,
        skips=guard.skips,
        recent_losses=guard.recent_losses,
    )


def _due(step: int, interval: int | None, num_steps: int, also: Collection[int] = ()) -> bool:
    on_time = interval is not None and step % interval == 0
    return on_time or step == num_steps or step in also


def _prefetch(training: Training, step: int) -> Prefetch[RankBatch]:
    def make(index: int) -> RankBatch:
        return rank_batch(training, training.batches[index])

    return Prefetch(make, step, training.num_steps, training.config.prefetch_batches)


def _open_saver(training: Training, open_files: ExitStack) -> Saver:
    config = training.config
    retention = Retention(config.keep_checkpoints, frozenset(config.keep_steps))
    saver = Saver(config.output_dir, training.mesh, retention, background=config.save_in_background)
    open_files.callback(saver.close)
    return saver


def _save(training: Training, saver: Saver, recorder: Recorder, state: LoopState) -> None:
    recorder.sync()
    path = saver.begin(state, training.tensors())
    log.info("train: saves %s", path)


def _announce(training: Training) -> None:
    if not training.held_out.parts:
        log.info("train: no documents are held out (prepare.validation_share): no validation")


def _validate(training: Training, recorder: Recorder, step: int) -> None:
    """Validate after ``step`` steps, on all ranks, if anything is held out."""
    if training.held_out.parts:
        config = training.config
        result = validate(
            training.model, training.held_out, training.mesh, config.loss_chunk_tokens
        )
        recorder.validation(step, result)


def _named(training: Training, documents: list[int]) -> str:
    origins = training.packs.origins(documents)
    names = ", ".join(f"{origin.path}:{origin.line}" for origin in origins[:MAX_ORIGINS])
    more = len(origins) - MAX_ORIGINS
    return names + (f" and {more} more documents" if more > 0 else "")
