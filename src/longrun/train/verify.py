"""The short proof before the first step: the laws of packing hold on this model and machine.

1. Isolation: changing one document changes no logit of another document by a single bit.
2. Regrouping: documents packed together on one rank, and each alone and spread over the ranks, give
   the same loss and gradients up to rounding.
3. Agreement: every rank has counted the same batches, steps and weights.

Uses the ends of a few documents of the first batch, so it takes about a second on a small model and
less than one step of a large one. Every part is collective; nobody trains when one fails.
"""

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from longrun.errors import VerificationError
from longrun.nn.layout import build_layout
from longrun.parallel.context import lay_out
from longrun.parallel.data import Distributed, stored_part
from longrun.parallel.mesh import Mesh, all_agree, any_rank, sum_over_ranks
from longrun.train.step import MicroStep, compute_gradients, filler
from longrun.train.supervision import Weighted

MAX_DOCUMENTS = 4
MAX_TOKENS = 96
"""Tokens taken from the end of each document, where the supervised ones are."""
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Largest relative difference of loss and gradients that rounding explains.

Measured on Qwen2-architecture models of 2 to 24 layers (CPU): below 3e-7 and 4e-3."""
GRADIENT_FLOOR = 1e-2
"""A parameter whose gradient is below this share of the global norm is held to that share: the
gradient of a key bias is zero but for rounding."""


def verify(
    model: Distributed,
    mesh: Mesh,
    documents: Sequence[Weighted],
    counts: Mapping[str, object],
    chunk_tokens: int,
) -> None:
    """Check the laws on the ends of ``documents``; ``counts`` must be equal on every rank.

    Raises:
        VerificationError: on every rank, naming the law, the figure and its bound.
    """
    all_agree(json.dumps(counts, sort_keys=True))
    sample = [_end(document) for document in documents[:MAX_DOCUMENTS]]
    check_isolation(model, mesh, sample)
    check_regrouping(model, mesh, sample, chunk_tokens)


@torch.no_grad()
def check_isolation(model: Distributed, mesh: Mesh, documents: Sequence[Weighted]) -> None:
    """Change the first document, then the last, and compare the other documents' logits.

    Raises:
        VerificationError: a logit of an unchanged document changed.
    """
    vocab_size = model.model.arch.vocab_size
    before = _logits(model, mesh, documents)
    for changed in {0, len(documents) - 1}:
        altered = list(documents)
        tokens, weights = documents[changed]
        altered[changed] = (tokens + 1) % np.int32(vocab_size), weights
        after = _logits(model, mesh, altered)
        others = [index for index in range(len(documents)) if index != changed]
        leaks = [
            document
            for (document, old), (_, new) in zip(before, after, strict=True)
            if document in others and not torch.equal(old, new)
        ]
        if any_rank(bool(leaks)):
            raise VerificationError(
                f"isolation: changing document {changed} of a pack changed the logits of document"
                f" {leaks[0] if leaks else '?'} (bound: not one bit); the attention backend"
                f" {model.model.backend!r} mixes documents here, name another with attention=sdpa"
            )
    model.end_forward()


def check_regrouping(
    model: Distributed, mesh: Mesh, documents: Sequence[Weighted], chunk_tokens: int
) -> None:
    """Compare loss and gradients of one pack on rank 0 and of lone documents over all ranks.

    Raises:
        VerificationError: they differ by more than ``BOUNDS`` allows.
    """
    weight = sum(build_layout([document]).weight_sum() for document in documents)
    packed = [MicroStep(0, lay_out(documents, mesh))] if mesh.data_rank == 0 else []
    alone = [
        MicroStep(index, lay_out([documents[index]], mesh))
        for index in range(mesh.data_rank, len(documents), mesh.data_size)
    ]
    found = []
    for micro_steps, num_packs in ((packed, 1), (alone, len(documents))):
        missing = math.ceil(num_packs / mesh.data_size) - len(micro_steps)
        filled = micro_steps + [filler(mesh)] * missing
        gradients = compute_gradients(
            model, mesh, filled, num_packs=num_packs, weight=weight, chunk_tokens=chunk_tokens
        )
        found.append((gradients.loss, _local_gradients(model)))
    (packed_loss, packed_gradients), (alone_loss, alone_gradients) = found
    name, difference = _largest_difference(packed_gradients, alone_gradients)
    loss_difference = abs(packed_loss - alone_loss) / max(abs(alone_loss), 1e-12)
    bound = BOUNDS[model.model.compute_dtype]
    for what, value in (("loss", loss_difference), (f"gradient of {name}", difference)):
        if not value <= bound:
            raise VerificationError(
                f"regrouping: the {what} of packed documents differs from that of the same"
                f" documents alone by {value:.2g} (bound {bound:g}); do not train with this"
                f" attention backend ({model.model.backend}) and dtype on this machine"
            )


def _end(document: Weighted) -> Weighted:
    """Return the last tokens of a document; the last of all is supervised in any case."""
    tokens, weights = document[0][-MAX_TOKENS:], document[1][-MAX_TOKENS:].copy()
    weights[-1] = 1.0
    return tokens, weights


def _logits(
    model: Distributed, mesh: Mesh, documents: Sequence[Weighted]
) -> list[tuple[int, Tensor]]:
    """Return (document, logits) of every run of tokens that this rank has; collective."""
    layout = lay_out(documents, mesh)
    parts = torch.split(model.model.logits(layout), list(layout.lengths))
    return list(zip(layout.documents, parts, strict=True))


def _local_gradients(model: Distributed) -> dict[str, Tensor]:
    """Copy this rank's part of every gradient."""
    return {
        name: stored_part(parameter.grad).clone()
        for name, parameter in model.model.named_parameters()
        if parameter.grad is not None
    }


def _largest_difference(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor]
) -> tuple[str, float]:
    """Return the parameter whose gradients differ most, relative to their norm; collective."""
    names = list(one)
    differences = [_squares(one[name] - other[name]) for name in names]
    norms = [_squares(other[name]) for name in names]
    sums = sum_over_ranks(differences + norms)
    differences, norms = sums[: len(names)], sums[len(names) :]
    floor = GRADIENT_FLOOR * math.sqrt(math.fsum(norms))
    relative = {
        name: math.sqrt(difference) / max(math.sqrt(norm), floor, 1e-30)
        for name, difference, norm in zip(names, differences, norms, strict=True)
    }
    # A gradient that is not a number compares with nothing, so it is looked for first.
    worst = max(names, key=lambda name: (math.isnan(relative[name]), relative[name]))
    return worst, relative[worst]


def _squares(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64).square())
