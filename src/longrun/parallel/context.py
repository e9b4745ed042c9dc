"""Context parallelism: the tokens of a pack cut over ranks, exactly, for any documents and heads.

Every rank computes its own tokens. In each layer the keys and values of all ranks are gathered and
a rank's queries attend to the rows of their own document, aligned at the bottom right; the
gradients of keys and values are summed and scattered back. With grouped-query attention these rows
are few, so heads never need to be divided and documents never need padding.

Each document is cut into ``2 * size`` pieces at ``length * i // (2 * size)``, and rank r takes the
pieces r and ``2 * size - 1 - r``: an early piece attends to little, a late one to much, so that
tokens and work are both balanced. Documents of 8 and 3 tokens, size 2::

    document 0    0 1 | 2 3 | 4 5 | 6 7      rank 0: 0 1 6 7    rank 1: 2 3 4 5
    document 1      | 0 | 1 | 2              rank 0: 2          rank 1: 0 1
    keys of rank 0's runs:   0-1 of document 0, 0-7 of document 0, 0-2 of document 1

``tensors_of_rank`` is a pure function of the layout and never communicates.
Source of the zig-zag: Llama 3 (arXiv:2407.21783, section 3.3.2), there over whole sequences.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from longrun.nn.attention import Boundaries
from longrun.nn.decoder import Decoder
from longrun.nn.pack import PADDING, PackTensors, build_pack
from longrun.nn.weighted_document import WeightedDocument
from longrun.parallel.collectives import Axis
from longrun.parallel.mesh import Mesh


@dataclass(frozen=True, slots=True)
class _Run:
    """Consecutive tokens of one document on one rank, in positions of the pack."""

    document: int
    first_key: int
    """Where the document begins."""
    start: int
    end: int


def tensors_of_rank(
    whole: PackTensors, *, size: int, rank: int, multiple_of: int = 1
) -> PackTensors:
    """Return rank ``rank``'s share of an unpadded pack, cut over ``size`` ranks.

    Every share has the same number of tokens, a multiple of ``multiple_of``: what is missing is
    padded with tokens that attend to each other and carry no weight. ``key_rows`` counts through
    the shares of all ranks laid end to end.
    """
    if whole.num_padding or whole.key_rows is not None:
        raise ValueError("only a whole pack without padding can be shared")
    runs = [list(_runs(whole.lengths, size, peer)) for peer in range(size)]
    counts = [sum(run.end - run.start for run in own) for own in runs]
    num_tokens = -(-max(counts) // multiple_of) * multiple_of
    own, count = runs[rank], counts[rank]
    num_padding = num_tokens - count
    rows = _rows_by_position(runs, whole.num_tokens, num_tokens)
    key_rows = [rows[run.first_key : run.end] for run in own]
    padding = rank * num_tokens + np.arange(count, num_tokens)
    taken = np.concatenate([np.arange(run.start, run.end) for run in own] or [padding[:0]])
    tail = [num_padding] if num_padding else []
    lengths = [run.end - run.start for run in own] + tail
    key_lengths = [len(keys) for keys in key_rows] + tail
    return PackTensors(
        tokens=_padded(whole.tokens, taken, num_padding),
        targets=_padded(whole.targets, taken, num_padding),
        weights=_padded(whole.weights, taken, num_padding),
        positions=torch.cat((whole.positions[taken], torch.arange(num_padding))),
        cu_seqlens=_starts(lengths),
        cu_keys=_starts(key_lengths),
        key_rows=torch.from_numpy(np.concatenate([*key_rows, padding])),
        lengths=tuple(lengths),
        key_lengths=tuple(key_lengths),
        documents=(*(run.document for run in own), *([PADDING] if num_padding else [])),
        num_padding=num_padding,
    )


def _runs(lengths: tuple[int, ...], size: int, rank: int) -> Iterator[_Run]:
    """Yield the runs of one rank, ascending; the two pieces in the middle are one run."""
    first = 0
    for document, length in enumerate(lengths):
        cuts = [first + length * piece // (2 * size) for piece in range(2 * size + 1)]
        late = 2 * size - 1 - rank
        bounds = [(cuts[rank], cuts[rank + 1]), (cuts[late], cuts[late + 1])]
        if bounds[0][1] == bounds[1][0]:
            bounds = [(bounds[0][0], bounds[1][1])]
        for start, end in bounds:
            if start < end:
                yield _Run(document, first, start, end)
        first += length


def _rows_by_position(
    runs: list[list[_Run]], num_positions: int, share_tokens: int
) -> npt.NDArray[np.int64]:
    """Return for every position of the pack its row in the shares laid end to end."""
    rows = np.empty(num_positions, np.int64)
    for rank, own in enumerate(runs):
        row = rank * share_tokens
        for run in own:
            length = run.end - run.start
            rows[run.start : run.end] = np.arange(row, row + length)
            row += length
    return rows


def _padded(values: Tensor, taken: npt.NDArray[np.int64], num_padding: int) -> Tensor:
    return torch.cat((values[taken], values.new_zeros(num_padding)))


def _starts(lengths: list[int]) -> Tensor:
    return torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


class GatheredAttention(nn.Module):
    """The attention core of a layer over the keys and values of all context ranks."""

    def __init__(self, core: nn.Module, axis: Axis) -> None:
        super().__init__()
        self.core = core
        self.axis = axis

    def forward(self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, where: Boundaries) -> Tensor:
        """Return the attended values of the own queries, [T, H, D]."""
        if where.key_rows is None:
            raise ValueError("a whole pack was given to a model that expects shares of packs")
        gathered_S2KD = self.axis.gather(torch.stack((k_TKD, v_TKD), 1))
        keys_values = gathered_S2KD.index_select(0, where.key_rows)
        k_SKD, v_SKD = keys_values.unbind(1)
        return self.core(q_THD, k_SKD, v_SKD, where)  # type: ignore[no-any-return]  # module


def gather_keys(model: Decoder, axis: Axis) -> None:
    """Let every attention core of ``model`` see the keys of all ranks of ``axis``."""
    for layer in model.layers():
        layer.self_attn.core = GatheredAttention(layer.self_attn.core, axis)


def lay_out(documents: Sequence[WeightedDocument], mesh: Mesh) -> PackTensors:
    """Return this rank's share of the pack of ``documents``, on its device.

    Padded to a multiple of the tensor axis, over which the tokens are split between layers.
    """
    if mesh.context_size == 1:
        return build_pack(documents, multiple_of=mesh.tensor_size).to(mesh.device)
    return tensors_of_rank(
        build_pack(documents),
        size=mesh.context_size,
        rank=mesh.context_rank,
        multiple_of=mesh.tensor_size,
    ).to(mesh.device)
