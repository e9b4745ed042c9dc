"""What the workers of ``longrun verify`` do: isolation and regrouping at length, and one process.

The last check builds the whole model a second time on rank 0, without tensor or context
parallelism and without sharding, and computes each document alone. A model that does not fit there
beside its share is not compared, and the log says so.
"""

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from longrun.checkpoint.huggingface import load_weights
from longrun.config.training import VerifyConfig
from longrun.formats.plans import PackSet
from longrun.formats.stages.atomic import write_text
from longrun.nn.decoder import Decoder
from longrun.nn.pack import build_pack
from longrun.nn.weighted_document import WeightedDocument
from longrun.parallel.data import Distributed, gather_parameter
from longrun.parallel.layouts import Layout
from longrun.parallel.mesh import Mesh, broadcast_object
from longrun.training.build import build_model, choose_attention
from longrun.training.laws import (
    BOUNDS,
    GRADIENT_FLOOR,
    Finding,
    check_isolation,
    check_regrouping,
    end_of,
    weight_of,
)
from longrun.training.readers import weigh, weight_table
from longrun.training.verify import RESULT_NAME

BYTES_PER_PARAMETER = 10
"""Of the second model: float32 weights and gradients, and a bfloat16 copy of the weights."""
log = logging.getLogger(__name__)


def prove(config: VerifyConfig, mesh: Mesh) -> None:
    """Check the laws on this rank; rank 0 writes and logs what was found; collective.

    Raises:
        VerificationError: on every rank, naming the law, the figure and its bound.
    """
    documents = first_documents(config)
    model = build_model(config, mesh, choose_attention(config, mesh, documents))
    findings = [check_isolation(model, mesh, documents, range(len(documents)))]
    findings += check_regrouping(model, mesh, documents, config.loss_chunk_tokens)
    if mesh.size > 1:
        findings += check_one_process(model, mesh, documents, config)
    if mesh.rank == 0:
        result = {
            "layout": str(Layout.of(config)),
            "attention": model.model.backend,
            "dtype": config.dtype,
            "documents": [len(tokens) for tokens, _ in documents],
            "findings": [asdict(finding) for finding in findings],
        }
        write_text(config.output_dir / RESULT_NAME, json.dumps(result, indent=2) + "\n")
        for finding in findings:
            log.info(
                "verify: %-12s %9.2g of at most %-7g %s",
                *(finding.law, finding.value, finding.bound, finding.what),
            )


def first_documents(config: VerifyConfig) -> list[WeightedDocument]:
    """Return the ends of the first documents of the first plan."""
    packs = PackSet.open(config.packs)
    table = weight_table(config.loss_weights)
    chosen = packs.plan(0).documents[: config.num_documents]
    weighed = (weigh(packs.training[int(index)], table) for index in chosen)
    return [end_of(document, config.document_tokens) for document in weighed]


def check_one_process(
    model: Distributed, mesh: Mesh, documents: Sequence[WeightedDocument], config: VerifyConfig
) -> list[Finding]:
    """Compare the gradients that ``model`` holds with those of the whole model on rank 0.

    Raises:
        VerificationError: they differ by more than ``BOUNDS`` allows.
    """
    parameters = dict(model.model.named_parameters())
    needed = BYTES_PER_PARAMETER * sum(parameter.numel() for parameter in parameters.values())
    if broadcast_object(needed > free_bytes(mesh.device)):
        log.info("verify: one process: not compared, %.1f GB do not fit on rank 0", needed / 1e9)
        return []
    want = {}
    if mesh.rank == 0:
        whole = _load_whole(model.model, mesh, config)
        want = _gradients_alone(whole, mesh, documents, config.loss_chunk_tokens)
    worst = broadcast_object(_worst_difference(parameters, want))
    bound = BOUNDS[model.model.compute_dtype]
    found = Finding("one process", f"gradient of {worst[0]}, spread against whole", worst[1], bound)
    return [found.held(f"do not train under this layout ({Layout.of(config)})")]


def _load_whole(spread: Decoder, mesh: Mesh, config: VerifyConfig) -> Decoder:
    with torch.device("meta"):
        whole = Decoder(spread.arch, backend="sdpa", compute_dtype=spread.compute_dtype)
    whole.to_empty(device=mesh.device)
    whole.tie()
    load_weights(config.model, whole)
    return whole


def _gradients_alone(
    whole: Decoder, mesh: Mesh, documents: Sequence[WeightedDocument], chunk_tokens: int
) -> dict[str, Tensor]:
    """Return the gradient of every parameter, one document after the other."""
    weight = weight_of(documents)
    for document in documents:
        loss = whole.loss(build_pack([document]).to(mesh.device), chunk_tokens=chunk_tokens)
        (loss / weight).backward()  # type: ignore[no-untyped-call]  # torch has no annotation
    return {name: _gradient(parameter) for name, parameter in whole.named_parameters()}


def _worst_difference(
    parameters: Mapping[str, Tensor], want: Mapping[str, Tensor]
) -> tuple[str, float]:
    """Return the parameter whose gradient differs most from ``want`` (rank 0's), relative to it.

    Collective: the gradients are gathered one after the other.
    """
    squares = [float(torch.linalg.vector_norm(gradient).square()) for gradient in want.values()]
    floor = GRADIENT_FLOOR * math.sqrt(math.fsum(squares))
    worst = "", 0.0
    for name, parameter in parameters.items():
        got = gather_parameter(_gradient(parameter))
        if name in want:
            size = max(float(torch.linalg.vector_norm(want[name])), floor, 1e-30)
            difference = float(torch.linalg.vector_norm(got - want[name])) / size
            worst = max(worst, (name, difference), key=lambda pair: (math.isnan(pair[1]), pair[1]))
    return worst


def _gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        raise TypeError("a parameter has no gradient after the check of regrouping")
    return parameter.grad


def free_bytes(device: torch.device) -> int:
    """Return the bytes of memory that can still be had on ``device``."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
