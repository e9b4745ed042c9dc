"""The mathematics of one optimizer step: loss and gradient of a batch, however it is grouped.

``loss = sum(weight * nll) / sum(weight)`` over all packs of the batch on all ranks. The
denominator is summed over the ranks before the first backward pass and every micro-step is divided
by it, so gradients only ever need adding and no grouping can change their mean. It never reads a
file, never looks at the clock and never changes a parameter.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from longrun.nn.pack import PackTensors
from longrun.nn.weighted_document import WeightedDocument
from longrun.parallel.context import lay_out
from longrun.parallel.data import Distributed
from longrun.parallel.mesh import Mesh, sum_over_shares


@dataclass(frozen=True, slots=True)
class MicroStep:
    """One forward and backward pass."""

    slot: int | None
    """Index of the pack in its batch; None: a filler that keeps ranks in step."""
    layout: PackTensors
    """This rank's share of the pack."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a batch holds over all ranks."""

    weight: float
    tokens: int
    supervised_tokens: int


@dataclass(frozen=True, slots=True)
class Gradients:
    """The result of a batch: its numbers; the gradients themselves lie on the parameters."""

    loss: float
    grad_norm: float
    """Global norm before clipping."""
    pack_losses: list[float]
    """``sum(weight * nll)`` of every pack of the batch, equal on every rank."""

    @property
    def finite(self) -> bool:
        """Say whether loss and gradient are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)

    def bad_slots(self) -> list[int]:
        """Return the packs whose own loss is not finite; all of them when every loss is."""
        slots = [slot for slot, loss in enumerate(self.pack_losses) if not math.isfinite(loss)]
        return slots or list(range(len(self.pack_losses)))


def filler(mesh: Mesh) -> MicroStep:
    """Make a micro-step of one token without weight: its loss and its gradients are exactly 0."""
    nothing = WeightedDocument(np.zeros(1, np.int32), np.zeros(1, np.float32))
    return MicroStep(None, lay_out([nothing], mesh))


def count(micro_steps: Sequence[MicroStep], mesh: Mesh) -> Counts:
    """Count a batch over all ranks; collective."""
    layouts = [micro.layout for micro in micro_steps if micro.slot is not None]
    own = [
        math.fsum(layout.weight_sum() for layout in layouts),
        float(sum(layout.num_tokens - layout.num_padding for layout in layouts)),
        float(sum(int(layout.weights.count_nonzero()) for layout in layouts)),
    ]
    weight, tokens, supervised = sum_over_shares(own, mesh)
    return Counts(weight, int(tokens), int(supervised))


def compute_gradients(
    model: Distributed,
    mesh: Mesh,
    micro_steps: Sequence[MicroStep],
    *,
    num_packs: int,
    weight: float,
    chunk_tokens: int,
    clip_norm: float = math.inf,
    computed: Callable[[], None] = lambda: None,
) -> Gradients:
    """Run the micro-steps of this rank and sum the gradients over the ranks; collective.

    Args:
        model: the model; its gradients are replaced.
        mesh: this rank among the others.
        micro_steps: this rank's share, as many as on every other rank, at least one.
        num_packs: packs of the whole batch.
        weight: the sum of the weights of the whole batch, above 0.
        chunk_tokens: supervised tokens whose logits exist at the same time.
        clip_norm: bound of the global gradient norm.
        computed: called when this rank has computed all and is about to wait for the others.
    """
    model.begin_step()
    losses = []
    for index, micro in enumerate(micro_steps):
        last = index == len(micro_steps) - 1
        model.begin_micro_step(last)
        loss = model.model.loss(micro.layout, chunk_tokens=chunk_tokens)
        (loss / weight).backward()  # type: ignore[no-untyped-call]  # torch has no annotation
        if last:
            computed()
        model.end_backward(last)
        losses.append(loss.detach())
    pack_losses = _gather(mesh, micro_steps, losses, num_packs)
    grad_norm = model.clip_gradients(clip_norm)
    return Gradients(math.fsum(pack_losses) / weight, grad_norm, pack_losses)


def _gather(
    mesh: Mesh, micro_steps: Sequence[MicroStep], losses: Sequence[torch.Tensor], num_packs: int
) -> list[float]:
    """Return the loss of every pack on every rank; the device is waited for only here."""
    by_slot = [0.0] * num_packs
    for micro, loss in zip(micro_steps, losses, strict=True):
        if micro.slot is not None:
            by_slot[micro.slot] = float(loss)
    return sum_over_shares(by_slot, mesh)
