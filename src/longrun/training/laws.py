"""The laws of packing, checked on this model, type, layout and machine.

1. Agreement: every rank has counted the same batches, steps and weights.
2. Isolation: changing one document changes no logit of another document by a single bit.
3. Regrouping: documents packed together on one data rank, and each alone and spread over the data
   ranks, give the same loss and gradients up to rounding.
4. One process: so does each document alone in one process with the whole model.

Training checks 1 to 3 before its first step, on the ends of a few documents: about a second on a
small model and less than one step of a large one. ``longrun verify`` checks 2 to 4 at length. Every
part is collective; nobody trains when one fails.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from longrun.errors import VerificationError
from longrun.nn.pack import build_pack
from longrun.nn.weighted_document import WeightedDocument
from longrun.parallel.context import lay_out
from longrun.parallel.data import Distributed, stored_part
from longrun.parallel.mesh import Mesh, all_agree, sum_over_ranks
from longrun.training.step import MicroStep, compute_gradients, filler

MAX_DOCUMENTS = 4
MAX_TOKENS = 96
"""Tokens taken from the end of each document, where the supervised ones are."""
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Largest relative difference of loss and gradients that rounding explains.

Measured on Qwen2-architecture models of 2 to 24 layers (CPU): below 3e-7 and 4e-3."""
GRADIENT_FLOOR = 1e-2
"""A parameter whose gradient is below this share of the global norm is held to that share: the
gradient of a key bias is zero but for rounding."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One figure that a law bounds."""

    law: str
    what: str
    value: float
    bound: float

    def held(self, problem: str) -> "Finding":
        """Return itself.

        Raises:
            VerificationError: the value is above the bound, or not a number.
        """
        if not self.value <= self.bound:
            raise VerificationError(
                f"{self.law}: {self.what}: {self.value:.2g} (bound {self.bound:g}); {problem}"
            )
        return self


def verify(
    model: Distributed,
    mesh: Mesh,
    documents: Sequence[WeightedDocument],
    counts: Mapping[str, object],
    chunk_tokens: int,
) -> list[Finding]:
    """Check the laws on the ends of ``documents``; ``counts`` must be equal on every rank.

    Raises:
        VerificationError: on every rank, naming the law, the figure and its bound.
    """
    all_agree(json.dumps(counts, sort_keys=True))
    sample = [end_of(document, MAX_TOKENS) for document in documents[:MAX_DOCUMENTS]]
    changed = sorted({0, len(sample) - 1})
    isolation = check_isolation(model, mesh, sample, changed)
    return [isolation, *check_regrouping(model, mesh, sample, chunk_tokens)]


@torch.no_grad()
def check_isolation(
    model: Distributed, mesh: Mesh, documents: Sequence[WeightedDocument], changed: Sequence[int]
) -> Finding:
    """Change each document of ``changed`` and compare the other documents' logits.

    Raises:
        VerificationError: a logit of an unchanged document changed.
    """
    vocab_size = model.model.arch.vocab_size
    before = _logits(model, mesh, documents)
    finding = Finding("isolation", "logits that changed with another document", 0.0, 0.0)
    for index in changed:
        altered = list(documents)
        tokens, weights = documents[index]
        altered[index] = WeightedDocument((tokens + 1) % np.int32(vocab_size), weights)
        pairs = zip(before, _logits(model, mesh, altered), strict=True)
        others = [(document, old, new) for (document, old), (_, new) in pairs if document != index]
        changes = [float((old != new).sum()) for _, old, new in others]
        leaks = [document for (document, *_), change in zip(others, changes, strict=True) if change]
        total = sum_over_ranks([math.fsum(changes)])[0]
        where = f"changing document {index} of a pack changed document {min(leaks, default=-1)}"
        finding = Finding(finding.law, finding.what, total, 0.0).held(
            f"{where}; the attention backend {model.model.backend!r} mixes documents here, name"
            " another with attention=sdpa"
        )
    model.end_forward()
    return finding


def check_regrouping(
    model: Distributed, mesh: Mesh, documents: Sequence[WeightedDocument], chunk_tokens: int
) -> list[Finding]:
    """Compare loss and gradients of one pack on one data rank and of lone documents over all.

    Leaves the gradients of the lone documents on the parameters.

    Raises:
        VerificationError: they differ by more than ``BOUNDS`` allows.
    """
    weight = weight_of(documents)
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
    losses = "loss of packed documents against the same alone"
    gradients_ = f"gradient of {name}, packed against alone"
    bound = BOUNDS[model.model.compute_dtype]
    return [
        Finding("regrouping", what, value, bound).held(
            f"do not train with this attention backend ({model.model.backend}) and dtype on this"
            " machine"
        )
        for what, value in (
            (losses, relative_difference(packed_loss, alone_loss)),
            (gradients_, difference),
        )
    ]


def weight_of(documents: Sequence[WeightedDocument]) -> float:
    """Return the sum of the weights of the targets of ``documents``."""
    return math.fsum(build_pack([document]).weight_sum() for document in documents)


def relative_difference(one: float, other: float) -> float:
    """Return the difference over the size of ``other``."""
    return abs(one - other) / max(abs(other), 1e-12)


def end_of(document: WeightedDocument, max_tokens: int | None) -> WeightedDocument:
    """Return the last tokens of a document; the last of all is supervised in any case."""
    first = 0 if max_tokens is None else max(len(document.ids) - max_tokens, 0)
    ids, weights = document.ids[first:], document.weights[first:].copy()
    weights[-1] = 1.0
    return WeightedDocument(ids, weights)


def _logits(
    model: Distributed, mesh: Mesh, documents: Sequence[WeightedDocument]
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
