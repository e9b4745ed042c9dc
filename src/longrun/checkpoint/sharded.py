"""Checkpoints of a running training: sharded weights, optimizer moments and the loop's place.

Written by all ranks together with torch's distributed checkpoint format, aside, and renamed by
rank 0 when every rank has finished, so a folder named ``step-NNNNNNNN`` is complete. Tensors are
saved and loaded in place under any number of ranks and either kind of sharding::

    checkpoints/step-00000100/   __0_0.distcp ... .metadata   state.json
                                 "model.<parameter>", "optimizer.<parameter>.<moment>"
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from longrun.errors import InputError, ResourceError
from longrun.formats.atomic import fsync, full_disk_named, write_text
from longrun.parallel.mesh import Mesh, any_rank, barrier, sum_over_ranks

CHECKPOINTS_NAME = "checkpoints"
STATE_NAME = "state.json"
MODEL_PREFIX = "model."
OPTIMIZER_PREFIX = "optimizer."
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True, slots=True)
class LoopState:
    """Where a training stands after ``step`` finished optimizer steps."""

    step: int
    epoch: int
    """Pass over the packs that the next batch begins in, from 0."""
    position: int
    """Packs of that pass already used."""


def checkpoint_name(step: int) -> str:
    """Return the folder name of the checkpoint after ``step`` steps."""
    return f"step-{step:08d}"


def find_checkpoints(run_folder: Path) -> dict[int, Path]:
    """Return every complete checkpoint of a training by its step, ascending."""
    folder = run_folder / CHECKPOINTS_NAME
    found = [(_NAME.fullmatch(path.name), path) for path in folder.glob("step-*")]
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def save_checkpoint(
    run_folder: Path, state: LoopState, tensors: Mapping[str, Tensor], mesh: Mesh
) -> Path:
    """Save ``tensors`` (every rank its part) and ``state``; called by all ranks together.

    Raises:
        ResourceError: the disk is full; no checkpoint appeared and none was touched.
    """
    path = run_folder / CHECKPOINTS_NAME / checkpoint_name(state.step)
    aside = path.with_name(f".{path.name}.tmp")
    _check_space(path, tensors, mesh)
    with full_disk_named(path), _os_errors_shown():
        if mesh.rank == 0:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
        barrier()
        save(dict(tensors), checkpoint_id=aside, no_dist=mesh.size == 1)
        if mesh.rank == 0:
            write_text(aside / STATE_NAME, json.dumps(asdict(state)))
            fsync(aside)
            os.replace(aside, path)
            fsync(path.parent)
        barrier()
    return path


def _check_space(path: Path, tensors: Mapping[str, Tensor], mesh: Mesh) -> None:
    """Refuse before anything is written: torch's writer has no error of its own for a full disk.

    A sharded tensor counts on every rank, a replicated one is written by one rank only.
    """
    counted = [
        tensor.to_local() if isinstance(tensor, DTensor) else tensor
        for tensor in tensors.values()
        if isinstance(tensor, DTensor) or mesh.rank == 0
    ]
    needed = sum_over_ranks([float(sum(tensor.nbytes for tensor in counted))])[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if any_rank(free < needed):
        raise ResourceError(
            f"{path}: no space left: the checkpoint needs {needed / 1e6:.1f} MB and"
            f" {free / 1e6:.1f} MB are free; free some, or set keep_checkpoints, then run the same"
            " command again"
        )


def load_checkpoint(path: Path, tensors: Mapping[str, Tensor], mesh: Mesh) -> LoopState:
    """Fill ``tensors`` in place (every rank its part); called by all ranks together.

    Raises:
        InputError: the checkpoint is damaged or belongs to another model or optimizer.
    """
    _read(path, tensors, alone=mesh.size == 1)
    return read_state(path)


def read_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill whole ``tensors`` in place from a checkpoint, in this process alone.

    Raises:
        InputError: the checkpoint is damaged or lacks one of them.
    """
    _read(path, tensors, alone=True)


def read_state(path: Path) -> LoopState:
    """Read the loop's place from a complete checkpoint.

    Raises:
        InputError: ``state.json`` is missing or damaged.
    """
    try:
        return LoopState(**json.loads((path / STATE_NAME).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(path, error) from None


def model_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter in a checkpoint, by its Hugging Face name.

    Raises:
        InputError: the checkpoint is damaged.
    """
    try:
        entries = FileSystemReader(path).read_metadata().state_dict_metadata
    except (OSError, EOFError, ValueError, AttributeError) as error:
        raise _damaged(path, error) from None
    return {
        name.removeprefix(MODEL_PREFIX): tuple(entry.size)
        for name, entry in entries.items()
        if name.startswith(MODEL_PREFIX) and isinstance(entry, TensorStorageMetadata)
    }


def remove_old_checkpoints(run_folder: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints; a half-deleted one has no valid name."""
    for path in list(find_checkpoints(run_folder).values())[:-keep]:
        doomed = path.with_name(f".{path.name}.old.tmp")
        os.replace(path, doomed)
        shutil.rmtree(doomed)


def _read(path: Path, tensors: Mapping[str, Tensor], *, alone: bool) -> None:
    try:
        with _alone_without_warning():
            load(dict(tensors), checkpoint_id=path, no_dist=alone)
    except CheckpointException as error:
        raise _damaged(path, next(iter(error.failures.values()))[0]) from None


def _damaged(path: Path, error: BaseException) -> InputError:
    return InputError.at(
        path,
        None,
        f"cannot be read ({error}); delete this folder and run again to continue from the one"
        " before it",
    )


@contextmanager
def _os_errors_shown() -> Iterator[None]:
    """Raise the operating system's error that a failed save wraps, if there is one."""
    try:
        with _alone_without_warning():
            yield
    except CheckpointException as error:
        for failure, _ in error.failures.values():
            inner: BaseException | None = failure
            while inner is not None:
                if isinstance(inner, OSError):
                    raise inner from None
                inner = inner.__cause__ or inner.__context__
        raise


@contextmanager
def _alone_without_warning() -> Iterator[None]:
    """Silence torch's remark that one process without a process group saves for itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
