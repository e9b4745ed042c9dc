"""Optimizer steps of a tiny decoder over the documents that a deal gives to each rank."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from longrun.errors import InputError
from longrun.nn.arch import Arch
from longrun.nn.decoder import Decoder, Recompute
from longrun.nn.layout import Document, build_layout
from longrun.parallel.data import Distributed, Sharding, distribute
from longrun.parallel.mesh import Mesh, sum_over_ranks

Deal = Sequence[Sequence[Sequence[int]]]
"""``deal[rank][micro_step]``: the indices of the documents of one pack."""


@dataclass
class Case:
    """One way to take the steps."""

    arch: Arch
    sharding: Sharding
    deal: Deal
    recompute: Recompute = "none"
    dtype: torch.dtype = torch.float64
    compute_dtype: torch.dtype = torch.float64
    max_norm: float = math.inf
    steps: int = 2


@dataclass
class Outcome:
    """What a rank saw; gradients and weights are whole, of every step."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    local_elements: int = 0
    loaded: dict[str, Tensor] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)


def whole(tensor: Tensor) -> Tensor:
    """Return a copy without sharding."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().clone()


def take_step(distributed: Distributed, mesh: Mesh, case: Case, documents: list[Document]) -> float:
    """Run the micro-steps of this rank; return the loss of the whole batch."""
    packs = [
        build_layout([documents[index] for index in pack], multiple_of=8)
        for pack in case.deal[mesh.rank]
    ]
    total = sum_over_ranks([sum(pack.weight_sum() for pack in packs)])[0]
    loss_sum = 0.0
    distributed.begin_step()
    for index, pack in enumerate(packs):
        loss = distributed.model.loss(pack, chunk_tokens=6)
        (loss / total).backward()
        distributed.end_backward(last=index == len(packs) - 1)
        loss_sum += loss.item()
    return sum_over_ranks([loss_sum])[0] / total


def take_steps(mesh: Mesh, case: Case, documents: list[Document]) -> Outcome:
    """Take the steps of one case. Every rank starts from other weights, and rank 0's must win."""
    model = Decoder(
        case.arch, backend="sdpa", recompute=case.recompute, compute_dtype=case.compute_dtype
    )
    model.initialise(seed=mesh.rank, std=0.3)
    distributed = distribute(model.to(case.dtype), mesh, case.sharding)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    outcome = Outcome()
    for _ in range(case.steps):
        outcome.losses.append(take_step(distributed, mesh, case, documents))
        outcome.norms.append(distributed.clip_gradients(case.max_norm))
        outcome.gradients.append(
            {name: whole(parameter.grad) for name, parameter in model.named_parameters()}
        )
        optimizer.step()
    outcome.weights = distributed.full_state_dict()
    outcome.local_elements = sum(
        (p.to_local() if isinstance(p, DTensor) else p).numel() for p in model.parameters()
    )
    exchange_weights(mesh, distributed, outcome)
    return outcome


def exchange_weights(mesh: Mesh, distributed: Distributed, outcome: Outcome) -> None:
    """Load other weights, and weights that do not fit, from rank 0."""
    state = {name: weight + 1 for name, weight in outcome.weights.items()}
    distributed.load_full_state_dict(state)
    outcome.loaded = {
        name: whole(parameter) for name, parameter in distributed.model.named_parameters()
    }
    wrong = dict(state)
    if mesh.rank == 0:
        wrong["model.norm.weight"] = torch.ones(5)
    lacking = {name: value for name, value in state.items() if name != "model.norm.weight"}
    for unfit in (wrong, lacking, {**state, "lm_head.bias": torch.ones(1)}):
        try:
            distributed.load_full_state_dict(unfit)
        except InputError as error:
            outcome.refusals.append(str(error))


def run(
    mesh: Mesh, cases: dict[str, dict[str, Any]], documents: list[Document]
) -> dict[str, dict[str, Any]]:
    """Take all cases, one after the other; a case and its outcome travel as their fields."""
    return {
        name: vars(take_steps(mesh, Case(**fields), documents)) for name, fields in cases.items()
    }
