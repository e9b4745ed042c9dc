"""What is written and shown of every step: ``metrics.jsonl``, trackers, progress and the log.

Model FLOPs utilisation (MFU) of a step, by the formula of ``longrun.nn.costs``::

    tokens per second * (linear + attention operations per token) / (processes * peak operations)

with the attention of every document alone: ``S_eff`` of the documents of that very batch. Padding
and recomputation are not counted. The peak is ``peak_flops``, or what the maker of a known GPU
states for bfloat16 without sparsity; on a CPU, and for float32, nobody states one.
"""

import logging
import resource
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch

from longrun.checkpoint.model_folder import read_config
from longrun.config.training import TrainConfig
from longrun.formats.stages.progress import Progress, format_count, show_progress
from longrun.nn.costs import ModelShape, effective_length, model_flops
from longrun.parallel.mesh import Mesh
from longrun.training.metrics import Metrics
from longrun.training.trackers import Tracker, open_trackers

if TYPE_CHECKING:
    from longrun.training.loop import Training

_RECENT_STEPS = 50
"""Steps whose median time the time left is reckoned with."""
PEAK_FLOPS = {
    "GB200": 2.5e15,
    "B200": 2.25e15,
    "GH200": 989.4e12,
    "H200 NVL": 835.5e12,
    "H200": 989.4e12,
    "H100 NVL": 835.5e12,
    "H100 PCIe": 756e12,
    "H100": 989.4e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10": 125e12,
    "L4": 121e12,
}
"""Dense bfloat16 operations per second by a part of the device's name; the first match holds.
Source: the data sheets of NVIDIA."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepNumbers:
    """What one step was."""

    loss: float
    grad_norm: float
    """Before clipping."""
    lr: float
    tokens: int
    supervised_tokens: int
    packs: int
    seconds: float
    """From asking for the batch to the changed weights."""
    wait_seconds: float
    """Of these, waiting for the batch."""
    skipped: str | None = None
    """Why the step changed nothing."""
    modelled_imbalance: float | None = None
    """The slowest rank's modelled time over the mean; None: there is one data rank."""
    measured_imbalance: float | None = None
    """The same of the measured time; None: ranks waited for each other inside the step."""


def peak_flops(config: TrainConfig, mesh: Mesh) -> float | None:
    """Return the peak operations per second of this rank's device; None: not known."""
    if config.peak_flops is not None:
        return config.peak_flops
    if mesh.device.type != "cuda" or config.dtype != "bfloat16":
        return None
    name = torch.cuda.get_device_name(mesh.device)
    words = name.replace("-", " ").split()
    found = (peak for part, peak in PEAK_FLOPS.items() if set(part.split()) <= set(words))
    return next(found, None)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory of this process so far: allocated on the GPU, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Recorder:
    """Metrics, trackers and progress on rank 0; nothing on the other ranks."""

    def __init__(self, training: "Training", step: int, open_files: ExitStack) -> None:
        """Begin after ``step`` finished steps; ``open_files`` closes what is opened."""
        self._training = training
        self._metrics: Metrics | None = None
        self._progress: Progress | None = None
        self._trackers: list[Tracker] = []
        self._recent_seconds: list[float] = []
        if training.mesh.rank == 0:
            self._shape = ModelShape.from_hf(read_config(training.config.model))
            self._peak = peak_flops(training.config, training.mesh)
            self._metrics = Metrics(training.config.output_dir, resumed_step=step)
            open_files.callback(self._metrics.close)
            self._trackers = open_trackers(training.config, step)
            for tracker in self._trackers:
                open_files.callback(tracker.close)
            self._progress = open_files.enter_context(
                show_progress("train", training.num_steps, "steps", done=step)
            )

    def step(self, step: int, numbers: StepNumbers) -> None:
        """Write the line of the step with index ``step``."""
        if self._metrics is None or self._progress is None:
            return
        line = self._what(step, numbers) | self._how_fast(step, numbers)
        self._metrics.append(line)
        self._show(step + 1, line)
        speed = numbers.tokens / numbers.seconds
        note = (
            f"loss {numbers.loss:.4g}, lr {numbers.lr:.3g},"
            f" grad norm {numbers.grad_norm:.3g}, {format_count(speed)} tokens/s"
        )
        self._progress.advance(note=note)
        if (step + 1) % self._training.config.log_interval == 0:
            log.info("train: step %d: %s", step + 1, self._progress.figures())

    def validation(self, step: int, result: Mapping[str, object]) -> None:
        """Write what a validation after ``step`` steps found."""
        if self._metrics is None:
            return
        self._metrics.append({"step": step, **result})
        whole, by_mode = result["validation_loss"], result["validation_loss_by_mode"]
        parts = by_mode if isinstance(by_mode, dict) else {}
        shown = {f"validation_loss/{mode}": loss for mode, loss in parts.items()}
        self._show(step, {"validation_loss": whole, **shown})
        value = f"{whole:.4g}" if isinstance(whole, float) else "none, nothing is supervised"
        log.info("train: step %d: validation loss %s", step, value)

    def sync(self) -> None:
        """Make the lines survive a power cut."""
        if self._metrics is not None:
            self._metrics.sync()

    def _what(self, step: int, numbers: StepNumbers) -> dict[str, object]:
        """Return the numbers that every run of this training has alike."""
        line: dict[str, object] = {
            "step": step + 1,
            "loss": numbers.loss,
            "grad_norm": numbers.grad_norm,
            "lr": numbers.lr,
            "tokens": numbers.tokens,
            "supervised_tokens": numbers.supervised_tokens,
            "packs": numbers.packs,
            "epoch": round(self._training.batches.epochs_before(step + 1), 6),
        }
        if numbers.modelled_imbalance is not None:
            line["modelled_imbalance"] = round(numbers.modelled_imbalance, 6)
        return line if numbers.skipped is None else line | {"skipped": numbers.skipped}

    def _how_fast(self, step: int, numbers: StepNumbers) -> dict[str, object]:
        """Return the numbers that differ from run to run; see ``metrics.TIMING_FIELDS``."""
        seconds = numbers.seconds
        self._recent_seconds = [*self._recent_seconds, seconds][-_RECENT_STEPS:]
        steps_left = self._training.num_steps - step - 1
        line: dict[str, object] = {
            "seconds": round(seconds, 6),
            "tokens_per_second": round(numbers.tokens / seconds, 1),
            "supervised_tokens_per_second": round(numbers.supervised_tokens / seconds, 1),
            "data_wait_share": round(numbers.wait_seconds / seconds, 4),
            "seconds_left": round(steps_left * median(self._recent_seconds), 1),
            "peak_memory_bytes": peak_memory_bytes(self._training.mesh.device),
        }
        if numbers.measured_imbalance is not None:
            line["measured_imbalance"] = round(numbers.measured_imbalance, 4)
        if self._peak is not None:
            lengths = self._training.packs.lengths(self._training.batches[step])
            operations = numbers.tokens * model_flops(self._shape, effective_length(lengths))
            line["mfu"] = round(operations / seconds / self._peak / self._training.mesh.size, 5)
        return line

    def _show(self, step: int, line: Mapping[str, object]) -> None:
        numbers = {
            name: float(value)
            for name, value in line.items()
            if isinstance(value, int | float) and name != "step"
        }
        for tracker in self._trackers:
            tracker.show(step, numbers)
