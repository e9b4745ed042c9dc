"""The loss on held-out documents, weighted by tokens, as a whole and per mode.

The same loss, weights and code path as in training. Each validation pack is cut by mode: a
document's loss does not depend on what shares its pack, so the parts add up to the whole.
"""

import math
from collections import defaultdict

import torch

from longrun.parallel.context import lay_out
from longrun.parallel.data import Distributed
from longrun.parallel.mesh import Mesh, sum_over_shares
from longrun.training.balance import deal
from longrun.training.readers import HeldOutReader
from longrun.training.step import filler


@torch.no_grad()
def validate(
    model: Distributed, held_out: HeldOutReader, mesh: Mesh, chunk_tokens: int
) -> dict[str, object]:
    """Return ``validation_loss`` and ``validation_loss_by_mode``; collective, equal on all ranks.

    A mode (or a whole) without supervised tokens has no loss and is left out (is null).
    """
    num_parts = len(held_out.parts)
    hands = deal([held_out.cost(part) for part in range(num_parts)], mesh.data_size)
    losses, weights = [0.0] * num_parts, [0.0] * num_parts
    for part in hands[mesh.data_rank]:
        layout = lay_out(held_out.read(part), mesh)
        weights[part] = layout.weight_sum()
        losses[part] = float(model.model.loss(layout, chunk_tokens=chunk_tokens))
    for _ in range(max(map(len, hands)) - len(hands[mesh.data_rank])):
        model.model.loss(filler(mesh).layout, chunk_tokens=chunk_tokens)
    model.end_forward()
    return _summary(held_out, sum_over_shares(losses, mesh), sum_over_shares(weights, mesh))


def _summary(
    held_out: HeldOutReader, losses: list[float], weights: list[float]
) -> dict[str, object]:
    by_mode: dict[str, list[int]] = defaultdict(list)
    for part in range(len(losses)):
        by_mode[held_out.mode(part)].append(part)

    def mean(parts: list[int]) -> float | None:
        weight = math.fsum(weights[part] for part in parts)
        return math.fsum(losses[part] for part in parts) / weight if weight else None

    means = {mode: mean(parts) for mode, parts in sorted(by_mode.items())}
    return {
        "validation_loss": mean(list(range(len(losses)))),
        "validation_loss_by_mode": {mode: loss for mode, loss in means.items() if loss is not None},
    }
