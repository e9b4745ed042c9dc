"""One model over the ranks of a layout: every rank has its share, the gradients are summed.

Sums, never means: the caller divides each loss by the sum of the weights of the whole batch, so a
rank with fewer supervised tokens, or with none, weighs exactly what its tokens weigh.

========== =====================================================================================
replicate  every data and context rank holds the model; one flat all-reduce after the last
           micro-step. Ranks may take different numbers of micro-steps.
states     sharded at rest (FSDP2); gathered once in a step and reduced once, after the last
           micro-step. Whole weights and gradients exist in between.
full       sharded (FSDP2), gathered layer by layer; every backward reduces.
========== =====================================================================================

Under ``states`` and ``full`` all ranks must take the same number of micro-steps.

One step: ``begin_step()``; for every micro-step ``begin_micro_step(last=...)``,
``(model.loss(layout) / total).backward()``, ``end_backward(last=...)``; ``clip_gradients(...)``;
the optimizer. Nobody else clears gradients.
"""

import math
from collections.abc import Mapping, Set
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from longrun.errors import ConfigError, InputError
from longrun.nn.decoder import Decoder
from longrun.parallel.collectives import Axis
from longrun.parallel.context import gather_keys
from longrun.parallel.layouts import Layout, Sharding
from longrun.parallel.mesh import Mesh, broadcast_object, sum_over_ranks
from longrun.parallel.tensor import cut_matrices

_BITS = {4: torch.int32, 8: torch.int64}
"""Integers as wide as a floating-point number of so many bytes."""


class Distributed(Protocol):
    """A model whose gradients are the sums over all ranks."""

    model: Decoder
    """The model to compute with; its parameters are ``DTensor``s where they are cut."""

    def begin_step(self) -> None:
        """Clear the gradients."""

    def begin_micro_step(self, last: bool) -> None:
        """Precede each forward pass that a backward pass follows."""

    def end_backward(self, last: bool) -> None:
        """Follow each backward pass; after ``last`` the gradients are summed over the ranks."""

    def end_forward(self) -> None:
        """Follow forward passes that no backward pass follows, as in validation."""

    def clip_gradients(self, max_norm: float) -> float:
        """Scale the gradients to at most ``max_norm`` and return their global norm before that.

        ``math.inf`` never scales. A norm that is not finite is returned and nothing is scaled.
        """


def distribute(
    model: Decoder, mesh: Mesh, layout: Layout, *, compiled: bool = False
) -> Distributed:
    """Spread ``model`` over the ranks, in place, in this order: tensor, context, compile, data.

    The parameters of ``model`` are on the meta device; here they get their place and their memory,
    but no values: see ``load_state`` and ``longrun.checkpoint.huggingface``.
    """
    cut = mesh.size > 1 and (layout.tensor > 1 or layout.sharding != "replicate")
    axes = _axes(mesh, layout) if cut else None
    if axes is not None and layout.tensor > 1:
        cut_matrices(model, axes["tensor"])
    if layout.context > 1:
        gather_keys(model, _context_axis(mesh, layout))
    if compiled:
        for layer in model.layers():
            layer.forward = torch.compile(layer.forward)  # type: ignore[method-assign]
    if axes is None:
        return Replicated(_materialised(model, mesh), mesh)
    _shard(model, axes, layout)
    return Sharded(_materialised(model, mesh), layout.sharding)


def _axes(mesh: Mesh, layout: Layout) -> DeviceMesh:
    """Return the axes of the parameters: copies x shards of a copy x cuts of a matrix."""
    return init_device_mesh(
        mesh.device.type,
        (layout.replicas, layout.shards, layout.tensor),
        mesh_dim_names=("replica", "shard", "tensor"),
    )


def _context_axis(mesh: Mesh, layout: Layout) -> Axis:
    sizes = layout.data, layout.context, layout.tensor
    axes = init_device_mesh(mesh.device.type, sizes, mesh_dim_names=("data", "context", "tensor"))
    return Axis.of(axes["context"])


def _shard(model: Decoder, axes: DeviceMesh, layout: Layout) -> None:
    """Shard every layer, and the rest with the root.

    The embedding and the output matrix stay in one group, which is what keeps them tied.
    """
    over = axes["replica", "shard"] if layout.replicas > 1 else axes["shard"]
    policy = MixedPrecisionPolicy(param_dtype=model.compute_dtype, reduce_dtype=torch.float32)
    if model.compute_dtype == next(model.parameters()).dtype:
        policy = MixedPrecisionPolicy()
    reshard = layout.sharding == "full"
    parts: list[nn.Module] = [*model.layers(), model]
    for part in parts:
        fully_shard(part, mesh=over, mp_policy=policy, reshard_after_forward=reshard)
    for module in _fsdp_modules(model):  # neither setting reaches the modules inside
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    for method in ("loss", "logits"):
        register_fsdp_forward_method(model, method)


def _fsdp_modules(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _materialised(model: Decoder, mesh: Mesh) -> Decoder:
    """Give the parameters memory on the device; their values are undefined."""
    model.to_empty(device=mesh.device)
    model.tie()
    return model


class Replicated:
    """The whole model on every rank; its gradients are views into one flat vector."""

    def __init__(self, model: Decoder, mesh: Mesh) -> None:
        self.model = model
        self._mesh = mesh
        parameters = list(model.parameters())
        sizes = [parameter.numel() for parameter in parameters]
        self._flat = torch.zeros(sum(sizes), dtype=parameters[0].dtype, device=mesh.device)
        parts = torch.split(self._flat, sizes)
        self._gradients = [
            (parameter, part.view_as(parameter))
            for parameter, part in zip(parameters, parts, strict=True)
        ]

    def begin_step(self) -> None:
        """See ``Distributed``."""
        self._flat.zero_()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient

    def begin_micro_step(self, last: bool) -> None:
        """See ``Distributed``; nothing is to be prepared."""

    def end_backward(self, last: bool) -> None:
        """See ``Distributed``."""
        for parameter, gradient in self._gradients:
            if parameter.grad is not gradient:
                raise RuntimeError("a gradient was replaced between begin_step and end_backward")
        if last and self._mesh.size > 1:
            dist.all_reduce(self._flat)

    def end_forward(self) -> None:
        """See ``Distributed``; nothing was gathered."""

    def clip_gradients(self, max_norm: float) -> float:
        """See ``Distributed``."""
        gradients = [gradient for _, gradient in self._gradients]
        return _clip(gradients, _sum_of_squares(gradients), max_norm)


class Sharded:
    """A share of every parameter on each rank (FSDP2, around tensor parallelism)."""

    def __init__(self, model: Decoder, sharding: Sharding) -> None:
        self.model = model
        self._once = sharding == "states"
        self._modules = _fsdp_modules(model)

    def begin_step(self) -> None:
        """See ``Distributed``."""
        self.model.zero_grad(set_to_none=True)

    def begin_micro_step(self, last: bool) -> None:
        """See ``Distributed``; under ``states`` only the last one reduces and frees."""
        if self._once:
            for module in self._modules:
                module.set_requires_gradient_sync(last, recurse=False)
                module.set_reshard_after_backward(last, recurse=False)

    def end_backward(self, last: bool) -> None:
        """See ``Distributed``; the backward passes have summed the gradients themselves."""

    def end_forward(self) -> None:
        """See ``Distributed``; what a forward pass gathered waits for a backward pass."""
        for module in self._modules:
            module.reshard()

    def clip_gradients(self, max_norm: float) -> float:
        """See ``Distributed``."""
        gradients = [_as_dtensor(p.grad) for p in self.model.parameters() if p.grad is not None]
        own = [gradient.to_local() for gradient in gradients if _speaks_for_copies(gradient)]
        total = sum_over_ranks([_sum_of_squares(own)])[0]
        return _clip([gradient.to_local() for gradient in gradients], total, max_norm)


@torch.no_grad()
def gather_parameter(parameter: Tensor) -> Tensor:
    """Return a whole parameter on every rank, bit for bit; collective where it is cut."""
    if not isinstance(parameter, DTensor):
        return parameter.detach()
    own = stored_part(parameter)
    whole = torch.zeros(parameter.shape, dtype=own.dtype, device=own.device)
    if _speaks_for_copies(parameter):
        whole[own_slices(parameter)] = own
    # Every element comes from one rank and is added to zeros, as bits so that -0.0 stays.
    dist.all_reduce(whole.view(_BITS[own.element_size()]))
    return whole


def own_slices(parameter: Tensor) -> tuple[slice, ...]:
    """Return which elements of the whole parameter this rank stores."""
    if not isinstance(parameter, DTensor):
        return tuple(slice(0, size) for size in parameter.shape)
    shape, offset = compute_local_shape_and_global_offset(
        parameter.shape, parameter.device_mesh, parameter.placements
    )
    return tuple(slice(start, start + size) for start, size in zip(offset, shape, strict=True))


def stored_part(parameter: Tensor) -> Tensor:
    """Return the elements of ``parameter`` that this rank stores, not a copy."""
    stored = parameter.detach()
    return stored.to_local() if isinstance(stored, DTensor) else stored


@torch.no_grad()
def load_state(model: Decoder, state: Mapping[str, Tensor]) -> None:
    """Give every rank its part of rank 0's ``state``; the others' ``state`` is ignored.

    Keys as in ``Decoder.named_parameters``: no ``lm_head.weight`` in a tied model. Collective.
    Raises ``InputError`` on every rank for a missing, unknown or misshapen tensor.
    """
    problem = broadcast_object(_state_problem(model, state))
    if problem is not None:
        raise InputError(f"model weights: {problem}")
    for name, parameter in model.named_parameters():
        own = stored_part(parameter)
        whole = torch.empty(parameter.shape, dtype=parameter.dtype, device=own.device)
        if not dist.is_initialized() or dist.get_rank() == 0:
            whole.copy_(state[name])
        if dist.is_initialized():
            dist.broadcast(whole, src=0)
        own.copy_(whole[own_slices(parameter)])


def _as_dtensor(tensor: Tensor | None) -> DTensor:
    if not isinstance(tensor, DTensor):
        raise TypeError(f"expected a sharded tensor, not {type(tensor).__name__}")
    return tensor


def _speaks_for_copies(tensor: DTensor) -> bool:
    """Say whether this rank is the first along every axis that ``tensor`` is repeated on."""
    axes = tensor.device_mesh
    return all(
        axes.get_local_rank(dim) == 0
        for dim, place in enumerate(tensor.placements)
        if place.is_replicate()
    )


def _sum_of_squares(gradients: list[Tensor]) -> float:
    """Return the sum over all elements, formed in float64 so that the sharding hardly shows."""
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in gradients]
    return float(torch.stack(norms).square().sum()) if norms else 0.0


def _clip(gradients: list[Tensor], sum_of_squares: float, max_norm: float) -> float:
    if not max_norm > 0:
        raise ConfigError(f"the gradient norm's bound is {max_norm}; a number above 0 is needed")
    norm = math.sqrt(sum_of_squares)
    if math.isfinite(norm) and norm > max_norm:
        torch._foreach_mul_(gradients, max_norm / norm)
    return norm


def _state_problem(model: Decoder, state: Mapping[str, Tensor]) -> str | None:
    expected = {name: parameter.shape for name, parameter in model.named_parameters()}
    missing, unknown = expected.keys() - state.keys(), state.keys() - expected.keys()
    if missing or unknown:
        return f"missing: {_names(missing)}; unknown: {_names(unknown)}"
    for name, shape in expected.items():
        if state[name].shape != shape:
            return f"{name} has shape {tuple(state[name].shape)}, the model wants {tuple(shape)}"
    return None


def _names(names: Set[str]) -> str:
    """List a few names; "none" for none."""
    shown = sorted(names)[:5]
    more = [f"and {len(names) - len(shown)} more"] if len(names) > len(shown) else []
    return ", ".join([*shown, *more]) or "none"
