"""Rows gathered and scattered along an axis of the mesh, as custom ops with exact gradients.

``gather_rows`` and ``scatter_rows`` are each other's adjoint. As custom ops they are opaque to
compilers (traced through, collectives were seen to give wrong gradients on torch 2.11) and can be
named by a recomputation policy, which keeps their results instead of waiting for peers again.

Two ranks that hold the rows a, b and c, d::

    gather_rows     a, b | c, d      ->   a, b, c, d  on both
    scatter_rows    the sum of both ranks' 4 rows     ->   its rows 0, 1 | 2, 3
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.distributed_c10d import GroupName

# torch 2.13 renamed both; 2.11 has only the old names.
_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@dataclass(frozen=True, slots=True)
class Axis:
    """The ranks of one axis of the mesh that this rank belongs to."""

    group: dist.ProcessGroup
    size: int
    rank: int

    @classmethod
    def of(cls, mesh: DeviceMesh) -> "Axis":
        """Take the only axis of ``mesh``."""
        return cls(mesh.get_group(), mesh.size(), mesh.get_local_rank())

    def gather(self, x: Tensor) -> Tensor:
        """Return the rows of all ranks, in their order; the gradient is summed and scattered."""
        rows: Tensor = gather_rows(x, self.group.group_name, self.size)
        return rows

    def scatter(self, x: Tensor) -> Tensor:
        """Return this rank's rows of the sum over the ranks; the gradient is gathered.

        The rows of ``x`` are a multiple of ``size``.
        """
        rows: Tensor = scatter_rows(x, self.group.group_name, self.size)
        return rows

    def take_maximum(self, x: Tensor) -> None:
        """Replace every element by its maximum over the ranks, in place."""
        dist.all_reduce(x, dist.ReduceOp.MAX, group=self.group)

    def take_sum(self, x: Tensor) -> None:
        """Replace every element by its sum over the ranks, in place."""
        dist.all_reduce(x, group=self.group)


def _resolve(name: str) -> dist.ProcessGroup:
    # An op cannot take a group, only its name; torch has no public way back.
    return distributed_c10d._resolve_process_group(GroupName(name))  # type: ignore[attr-defined]


@torch.library.custom_op("longrun::gather_rows", mutates_args=())
def gather_rows(x: Tensor, group: str, size: int) -> Tensor:
    """Return the rows of all ``size`` ranks of ``group``, [size * rows, ...]."""
    rows = x.new_empty(x.shape[0] * size, *x.shape[1:])
    _gather(rows, x.contiguous(), group=_resolve(group))
    return rows


@torch.library.custom_op("longrun::scatter_rows", mutates_args=())
def scatter_rows(x: Tensor, group: str, size: int) -> Tensor:
    """Return this rank's part of the sum over ``group``, [rows / size, ...]."""
    rows = x.new_empty(x.shape[0] // size, *x.shape[1:])
    _scatter(rows, x.contiguous(), group=_resolve(group))
    return rows


@gather_rows.register_fake
def _(x: Tensor, group: str, size: int) -> Tensor:
    return x.new_empty(x.shape[0] * size, *x.shape[1:])


@scatter_rows.register_fake
def _(x: Tensor, group: str, size: int) -> Tensor:
    return x.new_empty(x.shape[0] // size, *x.shape[1:])


def _keep_axis(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.group, ctx.size = inputs


def _gather_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    return scatter_rows(gradient, ctx.group, ctx.size), None, None


def _scatter_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    return gather_rows(gradient, ctx.group, ctx.size), None, None


gather_rows.register_autograd(_gather_backward, setup_context=_keep_axis)
scatter_rows.register_autograd(_scatter_backward, setup_context=_keep_axis)
