"""Optimizer steps of a tiny decoder over the documents that a deal gives to each data rank."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from longrun.errors import InputError
from longrun.nn.architecture import Arch
from longrun.nn.costs import Recompute
from longrun.nn.decoder import Decoder
from longrun.nn.weighted_document import WeightedDocument
from longrun.parallel.context import lay_out
from longrun.parallel.data import Distributed, distribute, gather_parameter, load_state, stored_part
from longrun.parallel.layouts import Layout, Sharding
from longrun.parallel.mesh import Mesh, sum_over_shares

Deal = Sequence[Sequence[Sequence[int]]]
"""``deal[data_rank][micro_step]``: the indices of the documents of one pack."""


@dataclass
class Case:
    """One way to take the steps."""

    arch: Arch
    deal: Deal
    sharding: Sharding = "replicate"
    tensor: int = 1
    context: int = 1
    shard_size: int | None = None
    recompute: Recompute = "none"
    compiled: bool = False
    chunk_tokens: int = 6
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
    return gather_parameter(tensor).clone()


def take_step(
    distributed: Distributed, mesh: Mesh, case: Case, documents: list[WeightedDocument]
) -> float:
    """Run the micro-steps of this rank; return the loss of the whole batch."""
    packs = [
        lay_out([documents[index] for index in pack], mesh) for pack in case.deal[mesh.data_rank]
    ]
    total = sum_over_shares([sum(pack.weight_sum() for pack in packs)], mesh)[0]
    loss_sum = 0.0
    distributed.begin_step()
    for index, pack in enumerate(packs):
        last = index == len(packs) - 1
        distributed.begin_micro_step(last)
        loss = distributed.model.loss(pack, chunk_tokens=case.chunk_tokens)
        (loss / total).backward()
        distributed.end_backward(last)
        loss_sum += loss.item()
    return sum_over_shares([loss_sum], mesh)[0] / total


def build(mesh: Mesh, case: Case) -> Distributed:
    """Build the model of one case, with rank 0's weights on all ranks."""
    with torch.device("meta"):
        model = Decoder(
            case.arch, backend="sdpa", recompute=case.recompute, compute_dtype=case.compute_dtype
        ).to(case.dtype)
    layout = Layout(
        num_ranks=mesh.size,
        tensor=case.tensor,
        context=case.context,
        sharding=case.sharding,
        shard_size=case.shard_size,
    )
    distributed = distribute(model, mesh, layout, compiled=case.compiled)
    initial = Decoder(case.arch, backend="sdpa")
    initial.initialise(seed=mesh.rank, std=0.3)
    load_state(distributed.model, dict(initial.to(case.dtype).named_parameters()))
    return distributed


def take_steps(process: Mesh, case: Case, documents: list[WeightedDocument]) -> Outcome:
    """Take the steps of one case. Every rank draws other weights, and rank 0's must win."""
    mesh = Mesh(
        process.rank, process.size, process.device, process.backend, case.tensor, case.context
    )
    distributed = build(mesh, case)
    model = distributed.model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    outcome = Outcome()
    for _ in range(case.steps):
        outcome.losses.append(take_step(distributed, mesh, case, documents))
        outcome.norms.append(distributed.clip_gradients(case.max_norm))
        outcome.gradients.append(
            {name: whole(parameter.grad) for name, parameter in model.named_parameters()}
        )
        optimizer.step()
    outcome.weights = {
        name: gather_parameter(parameter).clone() for name, parameter in model.named_parameters()
    }
    outcome.local_elements = sum(stored_part(p).numel() for p in model.parameters())
    exchange_weights(mesh, distributed, outcome)
    return outcome


def exchange_weights(mesh: Mesh, distributed: Distributed, outcome: Outcome) -> None:
    """Load other weights, and weights that do not fit, from rank 0."""
    model = distributed.model
    state = {name: weight + 1 for name, weight in outcome.weights.items()}
    load_state(model, state if mesh.rank == 0 else {})
    outcome.loaded = {
        name: gather_parameter(parameter).clone() for name, parameter in model.named_parameters()
    }
    wrong = dict(state)
    if mesh.rank == 0:
        wrong["model.norm.weight"] = torch.ones(5)
    lacking = {name: value for name, value in state.items() if name != "model.norm.weight"}
    for unfit in (wrong, lacking, {**state, "lm_head.bias": torch.ones(1)}):
        try:
            load_state(model, unfit)
        except InputError as error:
            outcome.refusals.append(str(error))


def run(
    mesh: Mesh, cases: dict[str, dict[str, Any]], documents: list[WeightedDocument]
) -> dict[str, dict[str, Any]]:
    """Take all cases, one after the other; a case and its outcome travel as their fields."""
    return {
        name: vars(take_steps(mesh, Case(**fields), documents)) for name, fields in cases.items()
    }
