"""Tensor parallelism with sequence sharding, applied to a decoder from outside.

Every matrix is cut over the tensor axis and stored as a ``DTensor``; computation is on the local
parts. Between layers each rank holds its share of the tokens; a block (attention or MLP) gathers
them, computes its heads or channels, and scatters the sum of the partial results::

    [T/n, hidden] -gather-> [T, hidden] -own heads-> partial [T, hidden] -scatter-> [T/n, hidden]

=============================  ==========================================  ===================
matrix                         cut                                         result
=============================  ==========================================  ===================
q, k, v, gate, up              outputs (rows), biases with them            own heads, channels
o, down                        inputs (columns)                            partial sums
embedding, output matrix       vocabulary (rows)                           partial sums, logits
norms, bias of o               repeated, gradients added up                own tokens or heads
=============================  ==========================================  ===================

The number of tokens must be a multiple of the axis. Source: Korthikanti et al. 2022
(arXiv:2205.05198), with whole gradients proven against one device in the tests.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.nn import functional

from longrun.nn.decoder import Decoder, Embedding, Layer, Projection, own_part
from longrun.nn.loss import Vocabulary
from longrun.parallel.collectives import Axis

ROWS, COLUMNS = 0, 1
CUTS = {
    "embed_tokens": ROWS,
    "q_proj": ROWS,
    "k_proj": ROWS,
    "v_proj": ROWS,
    "gate_proj": ROWS,
    "up_proj": ROWS,
    "o_proj": COLUMNS,
    "down_proj": COLUMNS,
    "lm_head": ROWS,
}
"""Name of a module -> the dim of its matrix that is cut."""


def cut_matrices(model: Decoder, mesh: DeviceMesh) -> None:
    """Cut ``model``, whose parameters are on the meta device, over the one axis of ``mesh``."""
    axis = Axis.of(mesh)
    for name, module in model.named_modules():
        _store(module, CUTS.get(name.rpartition(".")[2]), mesh)
    model.tie()
    rows = model.arch.vocab_size // axis.size
    model.vocabulary = Vocabulary(axis.rank * rows, axis.take_maximum, axis.take_sum)
    _surround(model.model.norm, after=axis.gather)
    _replace(model.model.embed_tokens, _vocabulary_lookup(model.model.embed_tokens, axis))
    for layer in model.layers():
        _cut_layer(layer, axis)


def _cut_layer(layer: Layer, axis: Axis) -> None:
    attention = layer.self_attn
    _surround(layer.mlp, before=axis.gather, after=axis.scatter)
    projection = attention.o_proj
    if projection.bias is None:
        _surround(attention, before=axis.gather, after=axis.scatter)
        return
    # Added once, after the sum: inside, every rank would add it.
    _replace(projection, lambda x: functional.linear(x, own_part(projection.weight, x.dtype)))
    _surround(attention, before=axis.gather, after=_scatter_then_add(projection, axis))


def _scatter_then_add(projection: Projection, axis: Axis) -> Callable[[Tensor], Tensor]:
    def after(partial_TH: Tensor) -> Tensor:
        sum_TH = axis.scatter(partial_TH)
        return (
            sum_TH if projection.bias is None else sum_TH + own_part(projection.bias, sum_TH.dtype)
        )

    return after


def _vocabulary_lookup(embedding: Embedding, axis: Axis) -> Callable[[Tensor], Tensor]:
    def forward(tokens_T: Tensor) -> Tensor:
        table = own_part(embedding.weight, embedding.weight.dtype)
        rows_T = tokens_T - axis.rank * table.shape[0]
        is_here_T = (rows_T >= 0) & (rows_T < table.shape[0])
        found_TH = functional.embedding(rows_T.where(is_here_T, 0), table)
        return axis.scatter(found_TH * is_here_T[:, None])

    return forward


def _store(module: nn.Module, dim: int | None, mesh: DeviceMesh) -> None:
    """Store the own parameters of ``module`` as tensors cut on ``dim``, or repeated."""
    for name, parameter in module.named_parameters(recurse=False):
        # A bias follows the rows of its matrix; with cut columns the outputs are whole.
        cut = dim if parameter.ndim > 1 or dim == ROWS else None
        shape = list(parameter.shape)
        if cut is not None:
            shape[cut] //= mesh.size()
        local = torch.empty(shape, dtype=parameter.dtype, device=parameter.device)
        place = Replicate() if cut is None else Shard(cut)
        stored = DTensor.from_local(
            local, mesh, [place], run_check=False, shape=parameter.shape, stride=parameter.stride()
        )
        module.register_parameter(name, nn.Parameter(stored))


def _surround(
    module: nn.Module,
    *,
    before: Callable[[Tensor], Tensor] | None = None,
    after: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Let ``module`` compute ``after(module(before(x), ...))``."""
    inner = module.forward

    def forward(x: Tensor, *others: Any) -> Tensor:
        result: Tensor = inner(x if before is None else before(x), *others)
        return result if after is None else after(result)

    _replace(module, forward)


def _replace(module: nn.Module, forward: Callable[..., Tensor]) -> None:
    # The instance's own ``forward`` is what a module's call looks up.
    module.forward = forward
