"""One model over data-parallel ranks: every rank has other packs, the gradients are summed.

Sums, never means: the caller divides each loss by the sum of the weights of the whole batch, so a
rank with fewer supervised tokens, or with none, weighs exactly what its tokens weigh.

========== =====================================================================================
replicate  every rank holds the model; one flat all-reduce after the last micro-step. Ranks may
           take different numbers of micro-steps.
full       parameters, gradients and optimizer state are sharded over the ranks (FSDP2); every
           backward reduces. Ranks must take the same number of micro-steps.
========== =====================================================================================

One step: ``begin_step()``; for every micro-step ``(model.loss(layout) / total).backward()`` and
``end_backward(last=...)``; ``clip_gradients(...)``; the optimizer. Nobody else clears gradients.
"""

import math
from collections.abc import Mapping, Set
from typing import Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from longrun.errors import ConfigError, InputError
from longrun.nn.decoder import Decoder
from longrun.parallel.mesh import Mesh, broadcast_object, sum_over_ranks

Sharding = Literal["replicate", "full"]


class Distributed(Protocol):
    """A model whose gradients are the sums over all ranks."""

    model: Decoder
    """The model to compute with; under "full" its parameters are ``DTensor``s."""

    def begin_step(self) -> None:
        """Clear the gradients."""

    def end_backward(self, last: bool) -> None:
        """Follow each backward pass; after ``last`` the gradients are summed over the ranks."""

    def end_forward(self) -> None:
        """Follow forward passes that no backward pass follows, as in validation."""

    def clip_gradients(self, max_norm: float) -> float:
        """Scale the gradients to at most ``max_norm`` and return their global norm before that.

        ``math.inf`` never scales. A norm that is not finite is returned and nothing is scaled.
        """

    def full_state_dict(self) -> dict[str, Tensor]:
        """Return every parameter, whole and on the CPU, on rank 0; an empty dict elsewhere.

        Keys as in ``Decoder.named_parameters``: no ``lm_head.weight`` in a tied model.
        """

    def load_full_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Give every rank its part of rank 0's ``state``; the others' ``state`` is ignored.

        Raises ``InputError`` on every rank for a missing, unknown or misshapen tensor.
        """


def distribute(model: Decoder, mesh: Mesh, sharding: Sharding) -> Distributed:
    """Spread ``model`` over the ranks of ``mesh``, in place; rank 0's parameters win.

    One rank has nobody to share with: "full" is then the same as "replicate".
    """
    if mesh.size > 1:
        _copy_from_rank_0(model, mesh)
    if sharding == "replicate" or mesh.size == 1:
        return replicate(model, mesh)
    return shard(model, mesh)


def _copy_from_rank_0(model: Decoder, mesh: Mesh) -> None:
    """Overwrite every parameter with rank 0's, one at a time on the device of the collectives."""
    for parameter in model.parameters():
        held = parameter.detach().to(mesh.device)
        dist.broadcast(held, src=0)
        parameter.detach().copy_(held)


def replicate(model: Decoder, mesh: Mesh) -> "Replicated":
    """Keep the whole model on every rank. The ranks' parameters must be equal already."""
    model.to(mesh.device)
    return Replicated(model, mesh)


def shard(model: Decoder, mesh: Mesh) -> "Sharded":
    """Shard every layer, and the rest with the root. The ranks' parameters must be equal already.

    Each layer moves to the device when it is sharded, so no device ever holds the whole model.
    The embedding and the output matrix stay in one group, which is what keeps them tied.
    """
    data_axis = init_device_mesh(mesh.device.type, (mesh.size,), mesh_dim_names=("data",))
    policy = MixedPrecisionPolicy(param_dtype=model.compute_dtype, reduce_dtype=torch.float32)
    if model.compute_dtype == next(model.parameters()).dtype:
        policy = MixedPrecisionPolicy()
    for module in (*model.model.layers, model):
        fully_shard(module, mesh=data_axis, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # neither setting reaches the modules inside
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    for method in ("loss", "logits"):
        register_fsdp_forward_method(model, method)
    return Sharded(model, mesh)


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

    def full_state_dict(self) -> dict[str, Tensor]:
        """See ``Distributed``."""
        if self._mesh.rank:
            return {}
        return {
            name: parameter.detach().to("cpu", copy=True)
            for name, parameter in self.model.named_parameters()
        }

    def load_full_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See ``Distributed``."""
        _check_state(self.model, state)
        for name, parameter in self.model.named_parameters():
            if self._mesh.rank == 0:
                parameter.detach().copy_(state[name])
            if self._mesh.size > 1:
                dist.broadcast(parameter.detach(), src=0)


class Sharded:
    """A share of every parameter on each rank (FSDP2)."""

    def __init__(self, model: Decoder, mesh: Mesh) -> None:
        self.model = model
        self._mesh = mesh

    def begin_step(self) -> None:
        """See ``Distributed``."""
        self.model.zero_grad(set_to_none=True)

    def end_backward(self, last: bool) -> None:
        """See ``Distributed``; each backward pass has already summed its own gradients."""

    def end_forward(self) -> None:
        """See ``Distributed``; the root keeps its parameters gathered until a backward pass."""
        if isinstance(self.model, FSDPModule):
            self.model.reshard()

    def clip_gradients(self, max_norm: float) -> float:
        """See ``Distributed``."""
        gradients = [
            _as_dtensor(parameter.grad).to_local()
            for parameter in self.model.parameters()
            if parameter.grad is not None
        ]
        total = sum_over_ranks([_sum_of_squares(gradients)])[0]
        return _clip(gradients, total, max_norm)

    def full_state_dict(self) -> dict[str, Tensor]:
        """See ``Distributed``."""
        state = {}
        for name, parameter in self.model.named_parameters():
            whole = _as_dtensor(parameter.detach()).full_tensor()
            if self._mesh.rank == 0:
                state[name] = whole.to("cpu", copy=True)
        return state

    def load_full_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See ``Distributed``."""
        _check_state(self.model, state)
        for name, parameter in self.model.named_parameters():
            target = _as_dtensor(parameter.detach())
            whole = torch.empty(target.shape, dtype=target.dtype, device=self._mesh.device)
            if self._mesh.rank == 0:
                whole.copy_(state[name])
            parts = distribute_tensor(whole, target.device_mesh, target.placements)
            target.to_local().copy_(parts.to_local())


def _as_dtensor(tensor: Tensor | None) -> DTensor:
    if not isinstance(tensor, DTensor):
        raise TypeError(f"expected a sharded tensor, not {type(tensor).__name__}")
    return tensor


def _sum_of_squares(gradients: list[Tensor]) -> float:
    """Return the sum over all elements, formed in float64 so that the sharding hardly shows."""
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in gradients]
    return float(torch.stack(norms).square().sum())


def _clip(gradients: list[Tensor], sum_of_squares: float, max_norm: float) -> float:
    if not max_norm > 0:
        raise ConfigError(f"the gradient norm's bound is {max_norm}; a number above 0 is needed")
    norm = math.sqrt(sum_of_squares)
    if math.isfinite(norm) and norm > max_norm:
        torch._foreach_mul_(gradients, max_norm / norm)
    return norm


def _check_state(model: Decoder, state: Mapping[str, Tensor]) -> None:
    """Raise ``InputError`` on every rank if rank 0's ``state`` does not fit ``model``."""
    problem = broadcast_object(_state_problem(model, state))
    if problem is not None:
        raise InputError(f"model weights: {problem}")


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
