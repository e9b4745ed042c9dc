"""The layout of one pack at run time: the only truth about where its documents begin and end.

Built once per pack and handed down to every layer. Nobody infers boundaries from positions, pad
ids or masks. Targets are shifted here, inside each document, so that no later part needs the
next token of a neighbour.

Two documents, ``5 6 7`` (only the last token supervised) and ``8 9``, padded to a multiple of 4::

    tokens       5 6 7   8 9   0 0 0
    targets      0 7 0   9 0   0 0 0      the next token where it is supervised, else 0
    weights      0 1 0   1 0   0 0 0      the weight of the TARGET of this position
    positions    0 1 2   0 1   0 1 2
    cu_seqlens   0       3     5     8    the padding is a document of its own
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from longrun.errors import InputError
from longrun.nn.weighted_document import WeightedDocument

Number = TypeVar("Number", np.int32, np.float32)

PADDING = -1
"""The document that a segment of padding belongs to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackTensors:
    """The T tokens of a pack, or of one rank's share of it, cut into D segments.

    In a whole pack a segment is a document. In a share (``longrun.parallel.context``) it is a run
    of tokens of one document, whose keys are that document up to the end of the run.
    """

    tokens: Tensor
    """[T] int64."""
    targets: Tensor
    """[T] int64: the next token of the same document; 0 where the weight is 0."""
    weights: Tensor
    """[T] float32: the weight of the target; 0 at each document's last position and in padding."""
    positions: Tensor
    """[T] int64: count from 0 in each document."""
    cu_seqlens: Tensor
    """[D + 1] int32: the first position of every segment, then T."""
    cu_keys: Tensor
    """[D + 1] int32: the same for the keys; ``cu_seqlens`` in a whole pack."""
    key_rows: Tensor | None
    """Rows of the keys of all ranks, in the order of the segments, int64; None: the own keys."""
    lengths: tuple[int, ...]
    """Tokens of each segment, the padding last: ``cu_seqlens`` without a device."""
    key_lengths: tuple[int, ...]
    """Keys of each segment."""
    documents: tuple[int, ...]
    """The document of each segment, from 0; ``PADDING`` for the padding."""
    num_padding: int
    """Tokens of the padding segment; 0: there is none."""

    @property
    def num_tokens(self) -> int:
        """Return T, padding included."""
        return sum(self.lengths)

    def weight_sum(self) -> float:
        """Return the sum of the weights, formed in float64."""
        return float(self.weights.double().sum())

    def to(self, device: torch.device | str) -> "PackTensors":
        """Return the same layout with its tensors on ``device``."""
        tensors: dict[str, Any] = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **tensors)


def build_pack(documents: Sequence[WeightedDocument], *, multiple_of: int = 1) -> PackTensors:
    """Lay whole documents side by side and pad to a multiple of ``multiple_of`` tokens.

    ``documents[i] = (tokens, token_weights)``, both [n]: ``token_weights[j]`` is the weight with
    which token j is supervised as a target. The first token of a document has nothing before it
    that could predict it, so its weight is never used.

    Raises ``InputError`` naming the document (from 0) for an empty pack or document, unequal
    shapes, a negative token, and a weight that is negative or not finite.
    """
    if not documents:
        raise InputError("a pack needs at least one document")
    if multiple_of < 1:
        raise ValueError(f"multiple_of is {multiple_of}; at least 1 is needed")
    for index, (tokens, weights) in enumerate(documents):
        _check_document(index, tokens, weights)
    lengths = [len(tokens) for tokens, _ in documents]
    num_padding = -sum(lengths) % multiple_of
    padding = np.zeros(num_padding, np.int32), np.zeros(num_padding, np.float32)
    parts = [*documents, padding] if num_padding else list(documents)
    lengths = [len(tokens) for tokens, _ in parts]
    ends = np.cumsum(lengths)
    next_weights = _next_in_document(np.concatenate([weights for _, weights in parts]), ends)
    targets = _next_in_document(np.concatenate([tokens for tokens, _ in parts]), ends)
    positions = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    cu_seqlens = torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32))
    return PackTensors(
        tokens=torch.from_numpy(np.concatenate([tokens for tokens, _ in parts]).astype(np.int64)),
        targets=torch.from_numpy(np.where(next_weights > 0, targets, 0).astype(np.int64)),
        weights=torch.from_numpy(next_weights.astype(np.float32)),
        positions=torch.from_numpy(positions),
        cu_seqlens=cu_seqlens,
        cu_keys=cu_seqlens,
        key_rows=None,
        lengths=tuple(lengths),
        key_lengths=tuple(lengths),
        documents=(*range(len(documents)), *([PADDING] if num_padding else [])),
        num_padding=num_padding,
    )


def _next_in_document(
    values: npt.NDArray[Number], ends: npt.NDArray[np.int64]
) -> npt.NDArray[Number]:
    """Return the value of the next position; 0 at every document's last position."""
    shifted = np.roll(values, -1)
    shifted[ends - 1] = 0
    return shifted


def _check_document(
    index: int, tokens: npt.NDArray[np.int32], weights: npt.NDArray[np.float32]
) -> None:
    if tokens.ndim != 1 or tokens.shape != weights.shape:
        raise InputError(
            f"document {index}: tokens {tokens.shape} and weights {weights.shape} "
            "must be two vectors of one length"
        )
    if not len(tokens):
        raise InputError(f"document {index} has no tokens")
    if not np.issubdtype(tokens.dtype, np.integer) or tokens.min() < 0:
        raise InputError(f"document {index}: token ids must be whole numbers from 0")
    if not (np.isfinite(weights).all() and weights.min() >= 0):
        raise InputError(f"document {index}: weights must be finite and not negative")
