"""Checkpoints of a training: sharded weights, optimizer moments and the loop's place.

Where they lie, what is in them, and how they are read; ``saving`` writes them. A folder named
``step-NNNNNNNN`` is complete. Tensors are loaded in place under any number of ranks and any
sharding::

    checkpoints/step-00000100/   __0_0.distcp ... .metadata   state.json   checksums.json
                                 "model.<parameter>", "optimizer.<parameter>.<moment>",
                                 "average.<parameter>" when a running average is kept
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load

from longrun.checkpoint.checksums import (
    CHECKPOINTS_NAME,
    damaged,
    read_checksums,
    verify_file,
)
from longrun.checkpoint.metadata import CheckedReader
from longrun.errors import InputError
from longrun.parallel.mesh import Mesh, any_rank

STATE_NAME = "state.json"
MODEL_PREFIX = "model."
OPTIMIZER_PREFIX = "optimizer."
AVERAGE_PREFIX = "average."
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True, slots=True)
class LoopState:
    """Where a training stands after ``step`` finished optimizer steps."""

    step: int
    epoch: int
    """Pass over the packs that the next batch begins in, from 0."""
    position: int
    """Packs of that pass already used."""
    updates: int = 0
    """Steps that changed the weights: all that were not skipped."""
    skips: int = 0
    """Steps in a row that were skipped up to here."""
    recent_losses: list[float] = field(default_factory=list)
    """Of the last steps that were not skipped, oldest first; what a spike is measured against."""
    training: dict[str, Any] = field(default_factory=dict)
    """What the training is: settings, data and model. A checkpoint of another one is refused."""


def checkpoint_name(step: int) -> str:
    """Return the folder name of the checkpoint after ``step`` steps."""
    return f"step-{step:08d}"


def find_checkpoints(run_folder: Path) -> dict[int, Path]:
    """Return every complete checkpoint of a training by its step, ascending."""
    folder = run_folder / CHECKPOINTS_NAME
    found = [(_NAME.fullmatch(path.name), path) for path in folder.glob("step-*")]
    steps = sorted((int(match[1]), path) for match, path in found if match)
    return {step: path for step, path in steps if path.name == checkpoint_name(step)}


def load_checkpoint(path: Path, tensors: Mapping[str, Tensor], mesh: Mesh) -> LoopState:
    """Fill ``tensors`` in place (every rank its part); called by all ranks together.

    Raises:
        InputError: the checkpoint is damaged or belongs to another model or optimizer.
    """
    _verify(path, mesh)
    alone = mesh.size == 1
    if alone:
        silence_saving_alone()
    try:
        load(dict(tensors), storage_reader=CheckedReader(path), no_dist=alone)
    except CheckpointException as error:
        raise damaged(path, next(iter(error.failures.values()))[0]) from None
    return read_state(path)


def _verify(path: Path, mesh: Mesh) -> None:
    """Compare every file with its checksum; the ranks share the files, and refuse together."""
    error: InputError | None = None
    try:
        for name in sorted(read_checksums(path))[mesh.rank :: mesh.size]:
            verify_file(path, name)
    except InputError as found:
        error = found
    if any_rank(error is not None):
        raise error or damaged(path, ValueError("another process found a file damaged"))


def read_state(path: Path) -> LoopState:
    """Read the loop's place from a complete checkpoint.

    Raises:
        InputError: ``state.json`` is missing or damaged.
    """
    try:
        return LoopState(**json.loads((path / STATE_NAME).read_text()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise damaged(path, error) from None


def remove_old_checkpoints(run_folder: Path, keep: int, always: Collection[int]) -> None:
    """Delete all but the newest ``keep`` checkpoints and those of the steps ``always``.

    A half-deleted one has no valid name.
    """
    for step, path in list(find_checkpoints(run_folder).items())[:-keep]:
        if step not in always:
            doomed = path.with_name(f".{path.name}.old.tmp")
            os.replace(path, doomed)
            shutil.rmtree(doomed)


def silence_saving_alone() -> None:
    """Silence torch's remark that one process without a process group reads and writes for itself.

    For good, not for a while: the filters of warnings belong to all threads.
    """
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
