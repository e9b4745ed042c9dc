"""The training rounds of a run: curves, and a few figures of each round.

Reads ``metrics.jsonl`` of every ``train``: one line per step, and lines with a validation loss. A
step that was repeated after an interruption counts once, as its last line says. Curves are thinned
to what a plot can show: never by leaving peaks out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import fmean, median
from typing import Any

import msgspec

from longrun.errors import InputError
from longrun.formats.documents import DocumentSet
from longrun.formats.json_text import JsonError, decode_json
from longrun.formats.plans import TRAIN, PackPlan, PacksInfo, epoch_name
from longrun.nn.costs import ModelShape, effective_length, model_flops
from longrun.report.stages import FinishedStage, Graph

_MOST_POINTS = 400
_SMOOTHING_SHARE = 0.02
_LAST_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of one line of a plot."""

    steps: list[int]
    values: list[float]


@dataclass(frozen=True, slots=True)
class Round:
    """One training stage."""

    stage: str
    steps: int
    tokens: int
    supervised_share: float | None
    epochs: float
    first_loss: float
    last_loss: float
    """Mean over the last twentieth of the steps."""
    best_validation: float | None
    best_validation_step: int | None
    last_validation: float | None
    validation_by_mode: dict[str, float]
    """At the last validation."""
    tokens_per_second: float
    """Median over the steps."""
    train_seconds: float
    """Time in steps, without start-up, saving and validation."""
    token_flops: float | None
    """Model operations per token; None where the documents are not at hand any more."""
    skipped_steps: int
    """Steps that changed nothing; they count in no other figure."""
    mfu: float | None
    """Median over the steps; None where the peak of the device is not known."""
    wait_share: float
    """Share of the time in steps that was waiting for data."""
    peak_memory_bytes: int
    """Of the process with rank 0; 0 where it was not noted."""
    loss: Curve
    smooth_loss: Curve
    validation: Curve
    lr: Curve
    grad_norm: Curve
    speed: Curve


@dataclass(frozen=True, slots=True)
class TrainingView:
    """Everything of the training section."""

    rounds: list[Round]


class _Line(msgspec.Struct):
    step: int
    loss: float | None = None
    grad_norm: float | None = 0.0
    lr: float = 0.0
    tokens: int = 0
    supervised_tokens: int | None = None
    tokens_per_second: float = 0.0
    seconds: float = 0.0
    epoch: float = 0.0
    validation_loss: float | None = None
    validation_loss_by_mode: dict[str, float | None] = {}
    skipped: str | None = None
    mfu: float | None = None
    data_wait_share: float = 0.0
    peak_memory_bytes: int = 0


def view_training(graph: Graph) -> TrainingView | None:
    """Return the training section; None when the run trained nothing.

    Raises:
        InputError: a metrics file is missing, empty or damaged.
    """
    rounds = [_round(stage, _token_flops(graph, stage)) for stage in graph.of_verb("train")]
    return TrainingView(rounds) if rounds else None


def smooth(values: Sequence[float], reach: int) -> list[float]:
    """Return the mean of every value and up to ``reach`` neighbours on either side.

    Centred, so that it does not lag; at both ends the window shrinks on both sides.

    >>> smooth([6.0, 0.0, 3.0, 3.0], reach=1)
    [6.0, 3.0, 2.0, 3.0]
    """
    sums = [0.0, *accumulate(values)]
    means = []
    for index in range(len(values)):
        near = min(reach, index, len(values) - 1 - index)
        means.append((sums[index + near + 1] - sums[index - near]) / (2 * near + 1))
    return means


def thin(steps: Sequence[int], values: Sequence[float], most: int = _MOST_POINTS) -> Curve:
    """Return at most ``most`` points of a line; every stretch keeps its lowest and highest.

    >>> thin(range(8), [1, 9, 1, 1, 1, 1, 0, 1], most=4)
    Curve(steps=[0, 1, 4, 6], values=[1, 9, 1, 0])
    """
    if len(values) <= most:
        return Curve(list(steps), list(values))
    kept = []
    stretches = most // 2
    for stretch in range(stretches):
        span = range(len(values) * stretch // stretches, len(values) * (stretch + 1) // stretches)
        low, high = min(span, key=values.__getitem__), max(span, key=values.__getitem__)
        kept += sorted({low, high})
    return Curve([steps[index] for index in kept], [values[index] for index in kept])


def _round(stage: FinishedStage, token_flops: float | None) -> Round:
    lines, validations, skipped = _read(stage.folder / "metrics.jsonl")
    losses = [line.loss for line in lines if line.loss is not None]
    steps = [line.step for line in lines]
    reach = max(1, round(_SMOOTHING_SHARE * len(lines)))
    best = min(validations, key=lambda line: line.validation_loss or math.inf, default=None)
    last = validations[-1] if validations else None
    tokens = sum(line.tokens for line in lines)
    mfus = [line.mfu for line in lines if line.mfu is not None]
    return Round(
        stage=stage.name,
        steps=len(lines),
        tokens=tokens,
        supervised_share=_supervised_share(lines, tokens),
        epochs=lines[-1].epoch,
        first_loss=losses[0],
        last_loss=fmean(losses[-max(1, round(_LAST_SHARE * len(losses))) :]),
        best_validation=best.validation_loss if best else None,
        best_validation_step=best.step if best else None,
        last_validation=last.validation_loss if last else None,
        validation_by_mode=_known(last.validation_loss_by_mode) if last else {},
        tokens_per_second=median(line.tokens_per_second for line in lines),
        train_seconds=sum(line.seconds for line in lines),
        token_flops=token_flops,
        skipped_steps=len(skipped),
        mfu=median(mfus) if mfus else None,
        wait_share=_wait_share(lines),
        peak_memory_bytes=max(line.peak_memory_bytes for line in lines),
        loss=thin(steps, losses),
        smooth_loss=thin(steps, smooth(losses, reach)),
        validation=_validation(validations),
        lr=thin(steps, [line.lr for line in lines]),
        grad_norm=thin(steps, [line.grad_norm or 0.0 for line in lines]),
        speed=thin(steps, smooth([line.tokens_per_second for line in lines], reach)),
    )


def _token_flops(graph: Graph, stage: FinishedStage) -> float | None:
    packs = [maker for maker in graph.makers(stage) if maker.verb == "pack"]
    config = stage.folder / "final" / "config.json"
    if not packs or not config.exists():
        return None
    folder = packs[0].folder
    documents = folder / PacksInfo.load(folder).documents / TRAIN
    if not any(documents.glob("*.idx")):
        return None
    packed = PackPlan.load(folder, epoch_name(0)).documents
    lengths = DocumentSet.open(documents).lengths[packed]
    return model_flops(read_shape(config), effective_length(lengths.tolist()))


def read_shape(path: Path) -> ModelShape:
    """Read the sizes of the model whose ``config.json`` is at ``path``.

    Raises:
        InputError: it is damaged or of a family that Longrun does not train.
    """
    try:
        config = decode_json(path.read_bytes(), dict[str, Any])
    except (OSError, JsonError) as error:
        raise InputError.at(path, None, f"is damaged ({error}); run its stage again") from None
    return ModelShape.from_hf(config, str(path))


def _read(path: Path) -> tuple[list[_Line], list[_Line], set[int]]:
    """Return the lines of steps and of validations, in order, and which steps were skipped."""
    steps: dict[int, _Line] = {}
    skipped: set[int] = set()
    validations: dict[int, _Line] = {}
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        raise InputError.at(path, None, "does not exist; run its stage again") from None
    for number, text in enumerate(lines, 1):
        line = _decode(text, path, number)
        if line.validation_loss is not None:
            validations[line.step] = line
        if line.skipped is not None:
            skipped.add(line.step)
        elif line.loss is not None:
            steps[line.step] = line
    if not steps:
        raise InputError.at(path, None, "holds no step; run its stage again")
    ordered = [[found[step] for step in sorted(found)] for found in (steps, validations)]
    return ordered[0], ordered[1], skipped


def _decode(text: bytes, path: Path, number: int) -> _Line:
    try:
        return decode_json(text, _Line)
    except JsonError as error:
        raise InputError.at(path, number, f"is damaged: it {error}; run its stage again") from None


def _supervised_share(lines: Sequence[_Line], tokens: int) -> float | None:
    supervised = [line.supervised_tokens for line in lines if line.supervised_tokens is not None]
    return sum(supervised) / tokens if tokens and len(supervised) == len(lines) else None


def _wait_share(lines: Sequence[_Line]) -> float:
    seconds = sum(line.seconds for line in lines)
    waited = sum(line.seconds * line.data_wait_share for line in lines)
    return waited / seconds if seconds else 0.0


def _known(losses: dict[str, float | None]) -> dict[str, float]:
    return {mode: loss for mode, loss in losses.items() if loss is not None}


def _validation(lines: Sequence[_Line]) -> Curve:
    return Curve([line.step for line in lines], [line.validation_loss or 0.0 for line in lines])
