"""Write one shard of documents: tokens as they come, index and lineage at the end.

A shard without documents leaves no file behind. See ``longrun.formats.documents`` for the files.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from longrun.data.documents.encode import EncodedBatch
from longrun.formats.documents import LINEAGE, ShardContent, write_index
from longrun.formats.stages.atomic import atomic_file

Lineage = tuple[int, int, int, int]
"""One row of ``LINEAGE``: source file, line, problem, mode."""


class ShardWriter:
    """A context that ends with a complete shard, or, after an error, with none."""

    def __init__(self, split_folder: Path, name: str) -> None:
        self._folder = split_folder
        self._name = name
        self._stack = ExitStack()
        self._file: IO[bytes] | None = None
        self._lengths: list[npt.NDArray[np.int32]] = []
        self._kinds: list[npt.NDArray[np.int8]] = []
        self._spans: list[npt.NDArray[np.int64]] = []
        self._lineage: list[Lineage] = []
        self._checksum = 0
        self.checksums: dict[str, int] = {}
        """File, as ``train/00000.bin`` -> CRC-32; filled when the shard is complete."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)
        if kind is None and self._lineage:
            self._write_index()

    def write(
        self, batch: EncodedBatch, chosen: npt.NDArray[np.bool_], lineage: Sequence[Lineage]
    ) -> None:
        """Append the ``chosen`` [D] documents of ``batch``; ``lineage`` has a row for each."""
        if not lineage:
            return
        if self._file is None:
            path = self._folder / f"{self._name}.bin"
            self._file = self._stack.enter_context(atomic_file(path))
        spans = np.diff(batch.first_spans)
        self._spans.append(spans[chosen])
        self._lineage += lineage
        in_spans = np.repeat(chosen, spans)
        self._lengths.append(batch.span_lengths[in_spans])
        self._kinds.append(batch.span_kinds[in_spans])
        for begin, end in _stretches(chosen):
            tokens = batch.tokens[batch.first_tokens[begin] : batch.first_tokens[end]]
            self._file.write(tokens.data)
            self._checksum = isal_zlib.crc32(tokens.data, self._checksum)

    def _write_index(self) -> None:
        spans = np.concatenate(self._spans)
        content = ShardContent(
            span_lengths=np.concatenate(self._lengths),
            span_kinds=np.concatenate(self._kinds),
            first_spans=np.append(0, np.cumsum(spans, dtype=np.int64)),
            lineage=np.array(self._lineage, LINEAGE),
        )
        write_index(self._folder, self._name, content)
        split = self._folder.name
        self.checksums[f"{split}/{self._name}.bin"] = self._checksum
        for suffix in ("lineage.npy", "idx"):
            path = self._folder / f"{self._name}.{suffix}"
            self.checksums[f"{split}/{path.name}"] = isal_zlib.crc32(path.read_bytes())


def _stretches(chosen: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return ``(begin, end)`` of every stretch of neighbours that are chosen.

    >>> _stretches(np.array([True, True, False, True]))
    [(0, 2), (3, 4)]
    """
    edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]
