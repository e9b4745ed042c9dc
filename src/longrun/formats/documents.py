"""Documents on disk: Megatron ``.bin/.idx`` shards with typed spans and their lineage.

A split folder holds, for every part NNNNN of the raw data that has documents in it::

    NNNNN.bin          int32 tokens, documents one after the other
    NNNNN.lineage.npy  one row per document: where it came from
    NNNNN.idx          Megatron's index, version 1; its presence makes the shard complete

In the index one *sequence* is one span and one *document* its spans; the optional per-sequence
``mode`` byte is the span's kind, so Megatron's own readers see the same tokens. Readers map the
files into memory and never copy tokens.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from longrun.errors import InputError
from longrun.formats.json_text import as_fields, decode_json
from longrun.formats.stages.arrays import write_array
from longrun.formats.stages.atomic import atomic_file

SOURCES_NAME = "sources.json"
MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
INT32_CODE = 4
"""Megatron's number of the token type int32."""
LINEAGE_SUFFIX = ".lineage.npy"
MOST = 2**31 - 1
"""Tokens of the longest document there can be."""
_HEADER = struct.Struct("<9sQBQQ")

LINEAGE = np.dtype([("source_file", "<i4"), ("line", "<i8"), ("problem", "<u8"), ("mode", "i1")])
"""Row of a lineage file. ``line`` counts from 0 inside the part; see ``Sources.first_lines``."""

DescriptionT = TypeVar("DescriptionT")
Int32s = npt.NDArray[np.int32]
Int8s = npt.NDArray[np.int8]


class Document(NamedTuple):
    """One training example. T tokens in S spans."""

    tokens: Int32s
    """[T], a read-only view into the shard."""
    span_lengths: Int32s
    """[S], sums to T."""
    span_kinds: Int8s
    """[S], values of ``SpanKind``."""


class Origin(NamedTuple):
    """Where a document came from."""

    path: str
    line: int
    """Line (or row) of the source file, counted from 1."""
    problem: int
    """Stable 64-bit hash of the problem's text."""
    mode: str


@dataclass(frozen=True, slots=True)
class Sources:
    """What the numbers in lineage files mean; ``sources.json`` of a prepared folder."""

    paths: list[str]
    modes: list[str]
    first_lines: dict[str, int]
    """Shard name -> line of its source file (from 0) at which its part begins."""

    @classmethod
    def load(cls, folder: Path) -> "Sources":
        """Read ``sources.json``.

        Raises:
            InputError: it is absent or damaged.
        """
        return read_description(folder / SOURCES_NAME, cls)


def read_description(path: Path, kind: type[DescriptionT]) -> DescriptionT:
    """Read a JSON object into a dataclass, one key for each field.

    Raises:
        InputError: the file is absent or damaged.
    """
    try:
        return kind(**as_fields(decode_json(path.read_bytes(), dict[str, Any]), kind))
    except OSError as error:
        raise InputError.at(
            path, None, f"cannot be read ({error.strerror}); name a folder made by prepare"
        ) from None
    except (ValueError, TypeError) as error:
        raise InputError.at(path, None, f"is damaged ({error}); run prepare again") from None


@dataclass(frozen=True, slots=True)
class ShardContent:
    """The documents of one shard. D documents, S spans, T tokens."""

    span_lengths: Int32s
    """[S]."""
    span_kinds: Int8s
    """[S]."""
    first_spans: npt.NDArray[np.int64]
    """[D + 1]: document d has the spans ``first_spans[d] : first_spans[d + 1]``."""
    lineage: npt.NDArray[np.void]
    """[D] rows of ``LINEAGE``."""


def write_index(split_folder: Path, name: str, content: ShardContent) -> None:
    """Write lineage and index of a shard whose ``.bin`` is already complete; the index last."""
    with atomic_file(split_folder / f"{name}.lineage.npy") as file:
        write_array(file, content.lineage)
    lengths = content.span_lengths
    pointers = np.zeros(len(lengths), np.int64)
    np.cumsum(lengths[:-1], out=pointers[1:], dtype=np.int64)
    header = _HEADER.pack(MAGIC, VERSION, INT32_CODE, len(lengths), len(content.first_spans))
    with atomic_file(split_folder / f"{name}.idx") as file:
        file.write(header)
        file.write(lengths.astype("<i4").tobytes())
        file.write((pointers * np.int64(4)).astype("<i8").tobytes())
        file.write(content.first_spans.astype("<i8").tobytes())
        file.write(content.span_kinds.astype("i1").tobytes())


@dataclass(frozen=True, slots=True)
class _Shard:
    name: str
    tokens: Int32s
    span_lengths: Int32s
    span_kinds: Int8s
    first_spans: npt.NDArray[np.int64]
    first_tokens: npt.NDArray[np.int64]
    """[D + 1]: document d has the tokens ``first_tokens[d] : first_tokens[d + 1]``."""
    lineage: npt.NDArray[np.void]


class DocumentSet:
    """All documents of a split, in the order of the raw data; memory-mapped, never copied."""

    def __init__(
        self, folder: Path, shards: Sequence[_Shard], sources: Sources, most_tokens: int = MOST
    ) -> None:
        self._folder = folder
        self._most_tokens = most_tokens
        self._shards = list(shards)
        self._sources = sources
        counts = [len(shard.lineage) for shard in shards]
        self._first = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
        lengths = [np.diff(shard.first_tokens) for shard in shards]
        whole = np.concatenate([np.zeros(0, np.int64), *lengths])
        self.lengths: Int32s = np.minimum(whole, most_tokens).astype(np.int32)
        """[N] tokens of each document."""
        modes = [shard.lineage["mode"] for shard in shards]
        self.mode_indices: Int8s = np.concatenate([np.zeros(0, np.int8), *modes])
        """[N] index into ``modes``."""
        files = [shard.lineage["source_file"] for shard in shards]
        self.source_indices: Int32s = np.concatenate([np.zeros(0, np.int32), *files])
        """[N] index into ``source_paths``."""
        problems = [shard.lineage["problem"] for shard in shards]
        self.problems = np.concatenate([np.zeros(0, np.uint64), *problems])
        """[N] stable hash of each document's problem."""

    @classmethod
    def open(cls, split_folder: Path) -> "DocumentSet":
        """Map every complete shard of ``split_folder``; without any, the set is empty.

        Raises:
            InputError: a shard is damaged, or the folder is not part of a prepared one.
        """
        sources = Sources.load(split_folder.parent)
        shards = [_open_shard(path) for path in sorted(split_folder.glob("*.idx"))]
        return cls(split_folder, shards, sources)

    def cut_to(self, most_tokens: int) -> "DocumentSet":
        """Return the same documents without what stands after their first ``most_tokens``."""
        return DocumentSet(self._folder, self._shards, self._sources, most_tokens)

    def prompt_tokens(self) -> Int32s:
        """Return [N] tokens of the first span of each document, the prompt."""
        firsts = [shard.span_lengths[shard.first_spans[:-1]] for shard in self._shards]
        return np.concatenate([np.zeros(0, np.int32), *firsts])

    @property
    def modes(self) -> list[str]:
        """Mode names; ``mode_indices`` index them."""
        return self._sources.modes

    @property
    def source_paths(self) -> list[str]:
        """Source files; ``source_indices`` index them."""
        return self._sources.paths

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int) -> Document:
        """Return document ``index`` as views into its shard.

        Raises:
            IndexError: it is outside ``0 .. len - 1``.
        """
        shard, inside = self._locate(index)
        spans = slice(shard.first_spans[inside], shard.first_spans[inside + 1])
        tokens = slice(shard.first_tokens[inside], shard.first_tokens[inside + 1])
        whole = Document(shard.tokens[tokens], shard.span_lengths[spans], shard.span_kinds[spans])
        return whole if len(whole.tokens) <= self._most_tokens else _cut(whole, self._most_tokens)

    def target_counts(self, kinds: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Return how many tokens of each document can be targets and lie in the chosen spans, [N].

        ``kinds``: for every span kind whether it is chosen. A document's first token is no target.
        """
        counts = [np.zeros(0, np.int64)]
        for shard in self._shards:
            chosen = kinds[shard.span_kinds]
            sums = np.cumsum(np.where(chosen, shard.span_lengths, 0), dtype=np.int64)
            bounds = np.concatenate([[0], sums])[shard.first_spans]
            counts.append(np.diff(bounds) - chosen[shard.first_spans[:-1]])
        return np.concatenate(counts)

    def origin(self, index: int) -> Origin:
        """Say where document ``index`` came from."""
        shard, inside = self._locate(index)
        row = shard.lineage[inside]
        first_line = self._sources.first_lines[shard.name]
        return Origin(
            path=self._sources.paths[int(row["source_file"])],
            line=first_line + int(row["line"]) + 1,
            problem=int(row["problem"]),
            mode=self._sources.modes[int(row["mode"])],
        )

    def _locate(self, index: int) -> tuple[_Shard, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)} in {self._folder}")
        position = int(np.searchsorted(self._first, index, side="right")) - 1
        return self._shards[position], index - int(self._first[position])


def _cut(document: Document, most_tokens: int) -> Document:
    ends = np.cumsum(document.span_lengths)
    num_spans = int(np.searchsorted(ends, most_tokens)) + 1
    ends = np.minimum(ends[:num_spans], most_tokens)
    lengths = np.diff(ends, prepend=0).astype(np.int32)
    return Document(document.tokens[:most_tokens], lengths, document.span_kinds[:num_spans])


def _open_shard(index_path: Path) -> _Shard:
    raw = np.memmap(index_path, np.uint8, mode="r")
    try:
        magic, version, code, num_spans, num_bounds = _HEADER.unpack(raw[: _HEADER.size].tobytes())
        if (magic, version, code) != (MAGIC, VERSION, INT32_CODE):
            raise ValueError("not a version 1 index of int32 tokens")
        position = _HEADER.size
        arrays = []
        for dtype, count in (("<i4", num_spans), ("<i8", num_spans), ("<i8", num_bounds)):
            arrays.append(np.frombuffer(raw, dtype, count, position))
            position += arrays[-1].nbytes
        lengths, _, first_spans = arrays
        kinds = np.frombuffer(raw, np.int8, num_spans, position)
        name = index_path.stem
        tokens = np.memmap(index_path.with_suffix(".bin"), "<i4", mode="r")
        lineage = np.load(index_path.with_name(f"{name}.lineage.npy"), allow_pickle=False)
        bounds = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        if bounds[-1] != len(tokens) or lineage.dtype != LINEAGE:
            raise ValueError(f"{bounds[-1]} tokens in the index, {len(tokens)} in the .bin")
        if len(lineage) != num_bounds - 1 or first_spans[-1] != num_spans:
            raise ValueError(f"{len(lineage)} lineage rows, {num_bounds - 1} documents")
    except (ValueError, struct.error, OSError, IndexError, EOFError) as error:
        raise InputError.at(index_path, None, f"is damaged ({error}); run prepare again") from None
    # Plain views: indexing a np.memmap costs microseconds for every slice.
    return _Shard(
        name,
        tokens.view(np.ndarray),
        lengths,
        kinds,
        first_spans,
        bounds[first_spans],
        lineage,
    )
