"""Write checkpoints while the training goes on.

Two phases. First every rank copies its part to the memory of the host; the training waits for
that. Then a thread writes the copies in torch's distributed checkpoint format, aside, and rank 0
gives the folder its name once every rank has finished and everything is on the disk. A save that
is not finished has no name: whatever kills it, the checkpoint before it is the newest.

One save is under way at a time. Its error is raised by whoever asks next: the next step, the next
save or the end of the training.
"""

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from longrun.checkpoint.checksums import CHECKPOINTS_NAME, CHECKSUMS_NAME
from longrun.checkpoint.metadata import METADATA_NAME
from longrun.checkpoint.sharded import (
    STATE_NAME,
    LoopState,
    checkpoint_name,
    remove_old_checkpoints,
    silence_saving_alone,
)
from longrun.errors import LongrunError, ResourceError
from longrun.formats.stages.atomic import fsync, full_disk_named, write_text
from longrun.formats.stages.damage import checksum_of
from longrun.parallel.mesh import (
    Mesh,
    any_rank,
    barrier,
    gather_dicts,
    new_host_group,
    sum_over_ranks,
)

_UNREADABLE = ""
"""Stands where the name of a file stands, for a rank that could not read what it wrote."""


@dataclass(frozen=True, slots=True)
class Retention:
    """Which checkpoints stay."""

    newest: int | None
    """So many of the newest; None: all."""
    always: Collection[int]
    """Steps whose checkpoint is never deleted."""


class Saver:
    """The saves of one training; every method is called by all ranks together."""

    def __init__(
        self, run_folder: Path, mesh: Mesh, retention: Retention, *, background: bool
    ) -> None:
        """Prepare; ``background`` False makes every save wait, without a copy on the host."""
        self._run_folder = run_folder
        self._mesh = mesh
        self._retention = retention
        self._background = background
        # The thread must not share a group with the training, whose collectives go on meanwhile.
        self._group = new_host_group(mesh)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._under_way: Future[None] | None = None

    def begin(self, state: LoopState, tensors: Mapping[str, Tensor]) -> Path:
        """Save ``tensors`` (every rank its part) and ``state``; return the folder to be.

        ``tensors`` may change as soon as this returns.

        Raises:
            ResourceError: the disk is full; no checkpoint appeared and none was touched.
            LongrunError: the save before this one failed.
        """
        self.wait()
        path = self._run_folder / CHECKPOINTS_NAME / checkpoint_name(state.step)
        _check_space(path, tensors, self._mesh)
        aside = path.with_name(f".{path.name}.tmp")
        with full_disk_named(path):
            if self._mesh.rank == 0:
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir(parents=True)
        barrier()
        if self._mesh.size == 1:
            silence_saving_alone()
        held = _copy_to_host(tensors) if self._background else dict(tensors)
        self._under_way = self._thread.submit(self._write, path, aside, state, held)
        if not self._background:
            self.wait()
        return path

    @property
    def failed(self) -> bool:
        """Say whether the save under way is known on this rank to have failed."""
        done = self._under_way is not None and self._under_way.done()
        return done and self._under_way is not None and self._under_way.exception() is not None

    def wait(self) -> None:
        """Wait until nothing is under way on any rank.

        Raises:
            ResourceError: the disk is full or broken; no checkpoint appeared, none was touched.
            LongrunError: the save failed on another rank.
        """
        future, self._under_way = self._under_way, None
        if future is None:
            return
        error = future.exception()
        if any_rank(error is not None):
            raise error or LongrunError("a checkpoint could not be saved on another process")

    def close(self) -> None:
        """End the thread, after the save under way; its error is dropped."""
        self._thread.shutdown()

    def _write(self, path: Path, aside: Path, state: LoopState, held: dict[str, Tensor]) -> None:
        """Write ``held`` aside and give it its name; in the thread of every rank."""
        try:
            with full_disk_named(path), _os_errors_shown():
                save(
                    held,
                    checkpoint_id=aside,
                    process_group=self._group,
                    no_dist=self._mesh.size == 1,
                )
                checksums = self._checksums(aside)
                if self._mesh.rank == 0:
                    self._name(path, aside, state, checksums)
        except BaseException as error:
            if self._mesh.rank == 0:  # the space is wanted; nobody writes there any more
                shutil.rmtree(aside, ignore_errors=True)
            if isinstance(error, OSError):
                raise ResourceError(
                    f"{path}: could not be saved ({error}); those before it are untouched,"
                    " run the same command again to continue from the newest"
                ) from error
            raise

    def _checksums(self, aside: Path) -> dict[str, int]:
        """Return the checksums of the files of all ranks, each read by who wrote it."""
        error: OSError | None = None
        try:
            files = aside.glob(f"__{self._mesh.rank}_*")
            mine = {path.name: checksum_of(path) for path in files}
        except OSError as found:
            error, mine = found, {_UNREADABLE: self._mesh.rank}
        every = gather_dicts(mine, self._group)  # by all ranks, or those that can read would wait
        if _UNREADABLE in every:
            raise error or OSError(f"process {every[_UNREADABLE]} cannot read what it wrote")
        return every

    def _name(self, path: Path, aside: Path, state: LoopState, checksums: dict[str, int]) -> None:
        write_text(aside / STATE_NAME, json.dumps(asdict(state)))
        checksums |= {name: checksum_of(aside / name) for name in (METADATA_NAME, STATE_NAME)}
        write_text(aside / CHECKSUMS_NAME, json.dumps(checksums, indent=1))
        fsync(aside)
        os.replace(aside, path)
        fsync(path.parent)
        if self._retention.newest is not None:
            remove_old_checkpoints(self._run_folder, self._retention.newest, self._retention.always)


def _copy_to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    options = StagingOptions(
        use_pinned_memory=False,
        use_shared_memory=False,
        use_async_staging=False,
        use_non_blocking_copy=False,
    )
    stager = DefaultStager(options)
    copies = stager.stage(dict(tensors))
    if isinstance(copies, Future):
        copies = copies.result()
    stager.close()
    return copies


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


@contextmanager
def _os_errors_shown() -> Iterator[None]:
    """Raise the operating system's error that a failed save wraps, if there is one."""
    try:
        yield
    except CheckpointException as error:
        for failure, _ in error.failures.values():
            inner: BaseException | None = failure
            while inner is not None:
                if isinstance(inner, OSError):
                    raise inner from None
                inner = inner.__cause__ or inner.__context__
        raise
