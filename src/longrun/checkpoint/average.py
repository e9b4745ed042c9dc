"""The stage that averages checkpoints of one training into a Hugging Face model.

Tensor by tensor: the sum over the members is taken in float32 in the order of their steps, divided
once and rounded once, so the order in which steps are named does not matter and memory holds one
tensor. Nothing is averaged unless every step that was asked for is there.
"""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from longrun.checkpoint.huggingface import Shapes, write_weights
from longrun.checkpoint.model_folder import read_config, write_companions
from longrun.checkpoint.sharded import find_checkpoints
from longrun.checkpoint.stored import Piece, StoredCheckpoint
from longrun.config.settings import FINAL_NAME, MODEL_NAME
from longrun.config.training import AverageConfig
from longrun.errors import ConfigError, InputError
from longrun.formats.stages.atomic import atomic_folder
from longrun.formats.stages.manifest import Manifest
from longrun.formats.stages.progress import Progress, show_progress
from longrun.formats.stages.stage import open_stage
from longrun.formats.text.conversation import CONVERSATION_NAME

MEMBERS_NAME = "members"
_BLOCK_NUMBERS = 1 << 18
"""Numbers of a parameter that are read and summed at a time."""
_WIDEST = 8
"""Bytes of a number, at most."""
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


@contextmanager
def mean_reader(
    members: Sequence[Path], shapes: Shapes, dtype: torch.dtype
) -> Iterator[Callable[[str], Tensor]]:
    """Give a function from a parameter's name to its mean over ``members``.

    The mean is taken in float32 and rounded once to ``dtype``. Names are meant to be asked for in
    the order of ``shapes``.
    """
    following = dict(pairwise(shapes))
    with ExitStack() as stack:
        stack.enter_context(_one_thread())
        stored = [stack.enter_context(StoredCheckpoint(path)) for path in members]
        found: dict[str, list[list[Piece]]] = {}

        def find(name: str) -> None:
            if name not in found:
                found[name] = [checkpoint.pieces(name) for checkpoint in stored]

        def read(name: str) -> Tensor:
            find(name)
            if name in following:  # comes from the disk while this one is summed
                find(following[name])
            mean = torch.empty(tuple(shapes[name]), dtype=dtype)
            _fill_with_mean(mean, found.pop(name))
            return mean

        yield read


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sum on one core: threads that wait for each other after every block cost far more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fill_with_mean(mean: Tensor, members: list[list[Piece]]) -> None:
    """Fill ``mean`` [N, ...] block by block of its rows, each summed in the processor's cache."""
    width = max(1, mean[:1].numel())
    rows = max(1, _BLOCK_NUMBERS // width)
    buffer = torch.empty(rows * width * _WIDEST, dtype=torch.uint8)
    total = torch.empty(rows, *mean.shape[1:], dtype=torch.float32)
    for begin in range(0, len(mean), rows):
        block = slice(begin, min(begin + rows, len(mean)))
        part = total[: block.stop - begin]
        for index, pieces in enumerate(members):
            _add_up(part, block, pieces, buffer, first=index == 0)
        mean[block].copy_(part.div_(len(members)))


def _add_up(
    total: Tensor, block: slice, pieces: list[Piece], buffer: Tensor, *, first: bool
) -> None:
    """Add the rows ``block`` of one member to ``total``; of the ``first`` one: set them."""
    for piece in pieces:
        rows, *columns = piece.place
        begin, end = max(rows.start, block.start), min(rows.stop, block.stop)
        if begin < end:
            target = total[(slice(begin - block.start, end - block.start), *columns)]
            values = piece.read_rows(begin - rows.start, end - rows.start, buffer)
            target.copy_(values) if first else target.add_(values)


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
    dtype: torch.dtype = getattr(torch, config.dtype)
    with mean_reader(members, shapes, dtype) as read:

        def counted(name: str) -> Tensor:
            progress.advance(prod(shapes[name]) * len(members))
            return read(name)

        write_weights(folder, shapes, counted, dtype)
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
    shapes = StoredCheckpoint(paths[0]).shapes
    for path in paths[1:]:
        if StoredCheckpoint(path).shapes != shapes:
            raise InputError.at(path, None, f"holds another model than {paths[0].name}")
    return shapes
