"""The time of a training: steps, validations, saves, stops and what is logged of them.

Moments after a step, always in this order: metrics, validation, save. A checkpoint therefore
stands after everything that its step wrote, and a training that continues from it writes the same
lines again. The mathematics of a step is in ``step``.
"""

import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from torch import Tensor

from longrun.checkpoint.sharded import (
    MODEL_PREFIX,
    OPTIMIZER_PREFIX,
    LoopState,
    find_checkpoints,
    load_checkpoint,
    remove_old_checkpoints,
    save_checkpoint,
)
from longrun.config.stages import TrainConfig
from longrun.errors import InputError, LongrunError
from longrun.formats.progress import Progress, format_count, show_progress
from longrun.optim.optimizers import Optimizers
from longrun.optim.schedules import Schedule
from longrun.parallel.context import lay_out
from longrun.parallel.data import Distributed
from longrun.parallel.layouts import Layout
from longrun.parallel.mesh import Mesh, any_rank
from longrun.train.balance import Deal, Ranks
from longrun.train.batches import Batches, PackId
from longrun.train.compute_time import ComputeTime, measured_imbalance
from longrun.train.metrics import Metrics
from longrun.train.step import Gradients, MicroStep, compute_gradients, count, filler
from longrun.train.supervision import HeldOutReader, PackReader
from longrun.train.validation import validate

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
    batches: Batches
    num_steps: int
    packs: PackReader
    held_out: HeldOutReader

    def tensors(self) -> dict[str, Tensor]:
        """Return this rank's part of everything that a checkpoint holds, not copies."""
        named = self.model.model.named_parameters()
        model = {MODEL_PREFIX + name: parameter.detach() for name, parameter in named}
        moments = self.optimizers.state()
        return model | {OPTIMIZER_PREFIX + name: moment for name, moment in moments.items()}


def resume(training: Training) -> int:
    """Load the newest checkpoint, if there is one, and return its step; 0: a fresh start."""
    found = find_checkpoints(training.config.output_dir)
    training.optimizers.allocate()
    if not found:
        return 0
    step, path = list(found.items())[-1]
    state = load_checkpoint(path, training.tensors(), training.mesh)
    if (state.epoch, state.position) != training.batches.place(step):
        raise InputError.at(path, None, f"stands at {state}, which is not where {step} steps lead")
    log.info("train: continues after step %d: %s", step, path)
    return step


def train(training: Training, step: int, stop_requested: Callable[[], bool]) -> int:
    """Train on from ``step`` finished steps and return how many are finished now.

    Returns early, with everything saved, once a stop was requested on any rank.

    Raises:
        LongrunError: loss or gradient is not finite; the step and the source lines are named.
    """
    with ExitStack() as open_files:
        recorder = _Recorder(training, step, open_files)
        saved = step
        while step < training.num_steps:
            if any_rank(stop_requested()):
                break
            recorder.record(step, *_one_step(training, step))
            step += 1
            if _due(step, training.config.validation_interval, training.num_steps):
                recorder.validation(step)
            if _due(step, training.config.save_interval, training.num_steps):
                saved = _save(training, recorder, step)
        if saved < step:
            _save(training, recorder, step)
    return step


def deal_of(training: Training, batch: list[PackId]) -> Deal:
    """Return which rank computes which documents of ``batch``; equal on every rank."""
    return training.packs.deal(batch, Ranks.of(Layout.of(training.config)), training.config.balance)


def micro_steps_of(training: Training, dealt: Deal) -> list[MicroStep]:
    """Return this rank's share of a batch, filled up to the longest share of any rank."""
    mesh = training.mesh
    first = dealt.first_slot(mesh.data_rank)
    own = [
        MicroStep(first + index, lay_out(training.packs.read_documents(documents), mesh))
        for index, documents in enumerate(dealt.hands[mesh.data_rank])
    ]
    return own + [filler(mesh)] * (dealt.most_micro_steps - len(own))


def _one_step(training: Training, step: int) -> tuple[dict[str, float], float]:
    """Train the step with index ``step``; return its numbers and when it began."""
    began = time.perf_counter()
    config, batch = training.config, training.batches[step]
    dealt = deal_of(training, batch)
    micro_steps = micro_steps_of(training, dealt)
    counts = count(micro_steps, training.mesh)
    if not counts.weight > 0:
        every = [
            number for slot in range(dealt.num_micro_steps) for number in dealt.documents(slot)
        ]
        raise InputError(f"step {step + 1}: no token is supervised in {_named(training, every)}")
    computing = ComputeTime(training.mesh.device)
    gradients = compute_gradients(
        training.model,
        training.mesh,
        micro_steps,
        num_packs=dealt.num_micro_steps,
        weight=counts.weight,
        chunk_tokens=config.loss_chunk_tokens,
        clip_norm=config.optimizer.clip_norm or math.inf,
        computed=computing.mark,
    )
    if not gradients.finite:
        raise _not_finite(training, step, dealt, gradients)
    lr = training.schedule(step)
    training.optimizers.step(lr)
    numbers = {
        "loss": gradients.loss,
        "grad_norm": gradients.grad_norm,
        "lr": lr,
        "tokens": counts.tokens,
        "supervised_tokens": counts.supervised_tokens,
        "packs": len(batch),
    }
    return numbers | _balance(training, dealt, computing), began


def _balance(training: Training, dealt: Deal, computing: ComputeTime) -> dict[str, float]:
    """Return how unevenly the step was dealt: the slowest rank's time over the mean; collective."""
    ranks = Ranks.of(Layout.of(training.config))
    if ranks.size == 1:
        return {}
    numbers = {"modelled_imbalance": round(dealt.imbalance(ranks.waiting), 6)}
    if ranks.waiting == 1:
        measured = measured_imbalance(computing.seconds(), training.mesh)
        numbers["measured_imbalance"] = round(measured, 4)
    return numbers


def _due(step: int, interval: int | None, num_steps: int) -> bool:
    return step == num_steps or (interval is not None and step % interval == 0)


def _save(training: Training, recorder: "_Recorder", step: int) -> int:
    recorder.sync()
    config, mesh = training.config, training.mesh
    state = LoopState(step, *training.batches.place(step))
    path = save_checkpoint(config.output_dir, state, training.tensors(), mesh)
    if mesh.rank == 0 and config.keep_checkpoints is not None:
        remove_old_checkpoints(config.output_dir, config.keep_checkpoints)
    log.info("train: saved %s", path)
    return step


class _Recorder:
    """Metrics and progress on rank 0; nothing on the other ranks."""

    def __init__(self, training: Training, step: int, open_files: ExitStack) -> None:
        self._training = training
        self._metrics: Metrics | None = None
        self._progress: Progress | None = None
        if training.mesh.rank == 0:
            self._metrics = Metrics(training.config.output_dir, resumed_step=step)
            open_files.callback(self._metrics.close)
            self._progress = open_files.enter_context(
                show_progress("train", training.num_steps, "steps", done=step)
            )

    def record(self, step: int, numbers: dict[str, float], began: float) -> None:
        """Write the line of the step with index ``step``."""
        if self._metrics is None or self._progress is None:
            return
        seconds = time.perf_counter() - began
        speed = numbers["tokens"] / seconds
        epoch = round(self._training.batches.epochs_before(step + 1), 6)
        line = {"step": step + 1, **numbers, "epoch": epoch}
        times = {"tokens_per_second": round(speed, 1), "seconds": round(seconds, 6)}
        self._metrics.append(line | times)
        note = (
            f"loss {numbers['loss']:.4g}, lr {numbers['lr']:.3g},"
            f" grad norm {numbers['grad_norm']:.3g}, {format_count(speed)} tokens/s"
        )
        self._progress.advance(note=note)
        if (step + 1) % self._training.config.log_interval == 0:
            log.info("train: step %d: %s", step + 1, self._progress.figures())

    def validation(self, step: int) -> None:
        """Validate after ``step`` steps, on all ranks, if anything is held out."""
        training = self._training
        if not training.held_out.parts:
            return
        result = validate(
            training.model, training.held_out, training.mesh, training.config.loss_chunk_tokens
        )
        if self._metrics is not None:
            self._metrics.append({"step": step, **result})
            log.info("train: step %d: validation loss %.4g", step, result["validation_loss"])

    def sync(self) -> None:
        """Make the lines survive a power cut."""
        if self._metrics is not None:
            self._metrics.sync()


def _not_finite(training: Training, step: int, dealt: Deal, gradients: Gradients) -> LongrunError:
    documents = [number for slot in gradients.bad_slots() for number in dealt.documents(slot)]
    return LongrunError(
        f"step {step + 1}: loss {gradients.loss} and gradient norm {gradients.grad_norm} are not"
        f" both finite in {_named(training, documents)}; inspect these records, lower optimizer.lr"
        " or set optimizer.clip_norm. Nothing was changed by this step"
    )


def _named(training: Training, documents: list[int]) -> str:
    origins = training.packs.origins(documents)
    names = ", ".join(f"{origin.path}:{origin.line}" for origin in origins[:MAX_ORIGINS])
    more = len(origins) - MAX_ORIGINS
    return names + (f" and {more} more documents" if more > 0 else "")
