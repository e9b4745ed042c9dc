"""The stage that averages checkpoints of one training into a Hugging Face model.

Tensor by tensor: the sum over the members is taken in float32 in the order of their steps, divided
once and rounded once, so the order in which steps are named does not matter and memory holds one
output file. Nothing is averaged unless every step that was asked for is there.
"""

import logging
import re
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from longrun.checkpoint.huggingface import Shapes, write_weights
from longrun.checkpoint.model_folder import read_config, write_companions
from longrun.checkpoint.sharded import (
    MODEL_PREFIX,
    find_checkpoints,
    model_shapes,
    read_tensors,
)
from longrun.config.training import AverageConfig
from longrun.errors import ConfigError, InputError
from longrun.formats.atomic import atomic_folder
from longrun.formats.conversation import CONVERSATION_NAME
from longrun.formats.manifest import Manifest
from longrun.formats.progress import Progress, show_progress
from longrun.formats.stage import open_stage

MODEL_NAME = "model"
MEMBERS_NAME = "members"
FINAL_NAME = "final"
"""Folder of a training that holds its exported model, with tokenizer and conversation."""
log = logging.getLogger(__name__)


def run(config: AverageConfig) -> Manifest:
    """Write ``model/``, and ``members/step-NNNNNNNN/`` when they are asked for.

    Raises:
        ConfigError: a step is not there, named twice, or ``steps`` cannot be understood.
        InputError: ``checkpoints`` is not the output of a finished training.
    """
    with open_stage("average", config) as stage:
        if stage.finished is not None:
            return stage.finished
        Manifest.read(config.checkpoints, "train")
        available = find_checkpoints(config.checkpoints)
        steps = choose_steps(config.steps, list(available))
        log.info("average: steps %s", ", ".join(map(str, steps)))
        members = [available[step] for step in steps]
        exports = {stage.folder / MODEL_NAME: members}
        if config.export_members:
            exports |= {stage.folder / MEMBERS_NAME / path.name: [path] for path in members}
        _export(config, {path: parts for path, parts in exports.items() if not path.exists()})
        return stage.finish(counts={"members": len(steps), "last_step": steps[-1]})


def choose_steps(wanted: Sequence[int] | str, available: Sequence[int]) -> list[int]:
    """Return the steps to average, ascending.

    >>> choose_steps("last:2", [100, 200, 300])
    [200, 300]

    Raises:
        ConfigError: see ``run``; the available steps are named.
    """
    have = ", ".join(map(str, available)) or "none"
    if isinstance(wanted, str):
        match = re.fullmatch(r"all|last:([1-9]\d*)", wanted)
        if match is None:
            raise ConfigError(f"average.steps: {wanted!r} is not a list, 'all' or 'last:N'")
        count = len(available) if match[1] is None else int(match[1])
        if not 0 < count <= len(available):
            raise ConfigError(f"average.steps: {wanted!r} asks for {count}; available: {have}")
        return list(available[-count:])
    missing = sorted(set(wanted) - set(available))
    if missing:
        names = ", ".join(map(str, missing))
        raise ConfigError(f"average.steps: no checkpoint of step {names}; available: {have}")
    if not wanted or len(set(wanted)) < len(wanted):
        raise ConfigError("average.steps: names no step, or one of them twice; list each once")
    return sorted(wanted)


def mean_reader(members: Sequence[Path], shapes: Shapes) -> Callable[[str], Tensor]:
    """Return a function from a parameter's name to its float32 mean over ``members``."""

    def read(name: str) -> Tensor:
        total, part = torch.empty(tuple(shapes[name])), torch.empty(tuple(shapes[name]))
        read_tensors(members[0], {MODEL_PREFIX + name: total})
        for path in members[1:]:
            read_tensors(path, {MODEL_PREFIX + name: part})
            total += part
        return total.div_(len(members))

    return read


def _export(config: AverageConfig, exports: dict[Path, list[Path]]) -> None:
    if not exports:
        return
    shapes = _common_shapes(exports)
    numbers = sum(prod(shape) for shape in shapes.values())
    total = numbers * sum(len(members) for members in exports.values())
    with show_progress("average", total, "weights") as progress:
        for folder, members in exports.items():
            folder.parent.mkdir(exist_ok=True)
            with atomic_folder(folder) as aside:
                _write_model(config, aside, members, shapes, progress)


def _write_model(
    config: AverageConfig, folder: Path, members: list[Path], shapes: Shapes, progress: Progress
) -> None:
    read = mean_reader(members, shapes)

    def counted(name: str) -> Tensor:
        progress.advance(prod(shapes[name]) * len(members))
        return read(name)

    write_weights(folder, shapes, counted, getattr(torch, config.dtype))
    source = config.checkpoints / FINAL_NAME
    write_companions(
        folder,
        read_config(source),
        dtype=config.dtype,
        tokenizer=source,
        conversation=source / CONVERSATION_NAME,
    )


def _common_shapes(exports: dict[Path, list[Path]]) -> dict[str, tuple[int, ...]]:
    paths = sorted({path for members in exports.values() for path in members})
    shapes = model_shapes(paths[0])
    for path in paths[1:]:
        if model_shapes(path) != shapes:
            raise InputError.at(path, None, f"holds another model than {paths[0].name}")
    return shapes
