"""The processes of one run and the small collectives that a trainer needs.

``start_mesh`` joins the processes that torchrun started (gloo on the CPU, nccl on CUDA). Without
torchrun there is one process, no process group, and every collective is the identity. Collectives
must be called by every rank in the same order. Gradients are summed in ``longrun.parallel.data``.
"""

import os
from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeVar

import torch
import torch.distributed as dist

from longrun.errors import LaunchError, VerificationError

Value = TypeVar("Value")

TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""A rank that waits longer for another one gives up; loading and saving are far below it."""
SHOWN_CHARACTERS = 120


@dataclass(frozen=True, slots=True)
class Mesh:
    """This process among the processes of the run."""

    rank: int
    """From 0 to ``size`` - 1; rank 0 writes the log and the files."""
    size: int
    device: torch.device
    """Where this process computes."""
    backend: Literal["none", "gloo", "nccl"]
    """The library behind the collectives; "none": a single process without a process group."""
    tensor_size: int = 1
    """Ranks of the tensor axis, the innermost."""
    context_size: int = 1
    """Ranks of the context axis, around the tensor axis."""

    @property
    def data_size(self) -> int:
        """Ranks of the data axis: packs that are computed at the same time."""
        return self.size // (self.tensor_size * self.context_size)

    @property
    def data_rank(self) -> int:
        """This rank's place on the data axis; its tensor and context peers share it."""
        return self.rank // (self.tensor_size * self.context_size)

    @property
    def context_rank(self) -> int:
        """This rank's place on the context axis."""
        return self.rank // self.tensor_size % self.context_size

    @property
    def tensor_rank(self) -> int:
        """This rank's place on the tensor axis."""
        return self.rank % self.tensor_size


def start_mesh(*, tensor_size: int = 1, context_size: int = 1) -> Mesh:
    """Join the process group that torchrun's environment describes; alone without torchrun.

    Raises ``LaunchError`` when only a part of torchrun's variables is set, and when the ranks
    are not a multiple of ``tensor_size * context_size``.
    """
    present = [name for name in TORCHRUN_VARIABLES if name in os.environ]
    if "RANK" not in present and "WORLD_SIZE" not in present:
        return Mesh(0, 1, _device(0), "none")
    missing = [name for name in TORCHRUN_VARIABLES if name not in present]
    if missing:
        raise LaunchError(f"environment: {', '.join(missing)} not set beside RANK; use torchrun")
    device = _device(int(os.environ["LOCAL_RANK"]))
    backend: Literal["gloo", "nccl"] = "nccl" if device.type == "cuda" else "gloo"
    own_device = device if device.type == "cuda" else None
    if own_device is not None:
        torch.cuda.set_device(own_device)
    dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT, device_id=own_device)
    size = dist.get_world_size()
    if size % (tensor_size * context_size):
        raise LaunchError(
            f"{size} processes cannot be cut into tensor {tensor_size} x context {context_size}"
        )
    return Mesh(dist.get_rank(), size, device, backend, tensor_size, context_size)


def new_host_group(mesh: Mesh) -> dist.ProcessGroup | None:
    """Return a group of all ranks for collectives of a second thread, on the host's memory.

    None: a single process, without groups. Collective.
    """
    return dist.new_group(backend="gloo") if mesh.size > 1 else None


def gather_dicts(mine: dict[str, int], group: dist.ProcessGroup | None) -> dict[str, int]:
    """Return the entries of all ranks of a group of ``new_host_group``, on every rank."""
    if group is None:
        return dict(mine)
    parts: list[dict[str, int]] = [{}] * dist.get_world_size(group)
    dist.all_gather_object(parts, mine, group=group)
    return {name: value for part in parts for name, value in part.items()}


def stop_mesh() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _device(local_rank: int) -> torch.device:
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


def _collective_device() -> torch.device:
    """Return where the tensors of a collective must be."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def sum_over_ranks(values: list[float]) -> list[float]:
    """Return the sums of each value over the ranks, formed in float64; equal on every rank."""
    if not dist.is_initialized():
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64, device=_collective_device())
    dist.all_reduce(sums)
    return [float(value) for value in sums.tolist()]


def sum_over_shares(values: list[float], mesh: Mesh) -> list[float]:
    """Return the sums over the data and context ranks; equal on every rank.

    Tensor peers hold the same tokens, so the first of them speaks for all.
    """
    return sum_over_ranks([value if mesh.tensor_rank == 0 else 0.0 for value in values])


def any_rank(flag: bool) -> bool:
    """Return whether ``flag`` is true on at least one rank; equal on every rank."""
    return sum_over_ranks([float(flag)])[0] > 0


def all_agree(text: str) -> None:
    """Check that every rank holds the same ``text``.

    Raises ``VerificationError`` on every rank, naming the ranks that differ from rank 0.
    """
    if not dist.is_initialized():
        return
    texts: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(texts, text)
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for rank, value in enumerate(texts):
        groups[value].append(rank)
    if len(groups) > 1:
        raise VerificationError(f"the ranks disagree: {_describe(groups)}")


def _describe(groups: defaultdict[str, list[int]]) -> str:
    """Show what each group of ranks holds, from a little before the first difference."""
    start = max(_shared_characters(list(groups)) - SHOWN_CHARACTERS // 4, 0)
    parts = []
    for text, ranks in groups.items():
        shown = text[start : start + SHOWN_CHARACTERS]
        parts.append(f"rank {', '.join(map(str, ranks))}: {shown!r}")
    place = f" (from character {start})" if start else ""
    return "; ".join(parts) + place


def _shared_characters(texts: list[str]) -> int:
    """Return how many leading characters all texts have in common."""
    for index, characters in enumerate(zip(*texts, strict=False)):
        if len(set(characters)) > 1:
            return index
    return min(map(len, texts))


def barrier() -> None:
    """Wait until every rank is here."""
    if dist.is_initialized():
        dist.barrier()


def broadcast_object(value: Value) -> Value:
    """Return rank 0's ``value`` (picklable) on every rank; the others' values are ignored."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=_collective_device())
    return box[0]
