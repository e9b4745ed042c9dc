"""Packs as three padded arrays, the format of NeMo's packed datasets: read and written exactly.

N packs of at most P tokens in at most M rows::

    PREFIX.input_ids.npy     int32 [N, P], filled up with -1
    PREFIX.loss_mask.npy     bool  [N, P], filled up with True
    PREFIX.seq_start_id.npy  int32 [N, M], filled up with -1; where each row begins

A row is one document. Its mask stands at the token *before* the one that is predicted, and never
at a padding token. With context parallelism every row is padded to a multiple of 16 (or of twice
the ranks, if that is more) and by one token on top, so that inputs and targets both divide.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from longrun.errors import InputError
from longrun.formats.stages.atomic import atomic_file

_SUFFIXES = ("input_ids", "loss_mask", "seq_start_id")
_DTYPES = (np.dtype(np.int32), np.dtype(np.bool_), np.dtype(np.int32))

Int32s = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]


class Row(NamedTuple):
    """One document: T tokens of which the first ``prompt_tokens`` are the prompt."""

    tokens: Int32s
    """[T]."""
    prompt_tokens: int


def array_paths(prefix: Path) -> list[Path]:
    """Return the three files; ``prefix`` may carry the ``.npy`` that its users write.

    >>> [path.name for path in array_paths(Path("packed_8_seed0.npy"))][0]
    'packed_8_seed0.input_ids.npy'
    """
    stem = prefix.name.removesuffix(".npy")
    return [prefix.with_name(f"{stem}.{suffix}.npy") for suffix in _SUFFIXES]


def padded_length(num_tokens: int, context_parallel: int) -> int:
    """Return the tokens of a row with its padding.

    >>> [padded_length(tokens, 2) for tokens in (5, 16, 17)]
    [17, 17, 33]
    """
    if context_parallel == 1:
        return num_tokens
    multiple = max(16, 2 * context_parallel)
    return -(-num_tokens // multiple) * multiple + 1


def pad_row(row: Row, pad_id: int, context_parallel: int) -> tuple[Int32s, Bools]:
    """Return [T] tokens and mask of a row as it stands in a pack.

    >>> pad_row(Row(np.array([11, 12, 21], np.int32), 2), 0, 1)[1].tolist()
    [False, True, True]
    """
    tokens = row.tokens
    missing = padded_length(len(tokens), context_parallel) - len(tokens)
    if missing:
        tokens = np.concatenate([tokens, np.full(missing, pad_id, np.int32)])
    mask = np.arange(len(tokens)) >= row.prompt_tokens - 1
    return tokens, mask & (tokens != pad_id)


class ArrayShape(NamedTuple):
    """Sizes of the three arrays."""

    packs: int
    tokens: int
    rows: int


def write_arrays(
    prefix: Path,
    shape: ArrayShape,
    packs: Iterator[Sequence[Row]],
    pad_id: int,
    context_parallel: int,
) -> None:
    """Write ``packs`` in order, a few at a time; the files appear when all are complete."""
    shapes = ((shape.packs, shape.tokens), (shape.packs, shape.tokens), (shape.packs, shape.rows))
    fills = (-1, True, -1)
    with ExitStack() as stack:
        files = [stack.enter_context(atomic_file(path)) for path in array_paths(prefix)]
        for file, size, dtype in zip(files, shapes, _DTYPES, strict=True):
            header = {"descr": dtype.str, "fortran_order": False, "shape": size}
            np.lib.format.write_array_header_1_0(file, header)
        for pack in packs:
            lines = [
                np.full(size[1], fill, dtype)
                for size, fill, dtype in zip(shapes, fills, _DTYPES, strict=True)
            ]
            begin = 0
            for number, row in enumerate(pack):
                tokens, mask = pad_row(row, pad_id, context_parallel)
                end = begin + len(tokens)
                lines[0][begin:end], lines[1][begin:end] = tokens, mask
                lines[2][number] = begin
                begin = end
            for file, line in zip(files, lines, strict=True):
                file.write(line.tobytes())


def open_arrays(prefix: Path) -> list[npt.NDArray[np.generic]]:
    """Map the three arrays into memory.

    Raises:
        InputError: one is absent, damaged, cut, or of another type or size than the others.
    """
    found: list[npt.NDArray[np.generic]] = []
    for path, dtype in zip(array_paths(prefix), _DTYPES, strict=True):
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise InputError.at(path, None, "there is no such file; three are needed") from None
        except (OSError, ValueError, EOFError) as error:
            raise InputError.at(path, None, f"is damaged or cut ({error})") from None
        if array.dtype != dtype or array.ndim != 2 or len(array) != len((found or [array])[0]):
            raise InputError.at(
                path, None, f"holds {array.dtype} {array.shape}; {dtype} [packs, ...] is expected"
            )
        found.append(array)
    return found


def read_packs(prefix: Path, pad_id: int, context_parallel: int) -> Iterator[list[Row]]:
    """Yield the rows of every pack, without their padding.

    Raises:
        InputError: as ``open_arrays``, or a row is not what ``write_arrays`` writes for it.
    """
    ids, masks, starts = open_arrays(prefix)
    for number in range(len(ids)):
        tokens = np.asarray(ids[number], np.int32)
        mask = np.asarray(masks[number], np.bool_)
        bounds = np.append(starts[number][starts[number] >= 0], int((tokens != -1).sum()))
        rows: list[Row] = []
        for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            row = _read_row(tokens[begin:end], mask[begin:end], pad_id, context_parallel)
            if row is None:
                raise InputError.at(
                    array_paths(prefix)[0],
                    None,
                    f"pack {number}, row {len(rows)} is no prompt with its response padded by"
                    f" {pad_id} for {context_parallel} context-parallel ranks; mend pad_id or"
                    " context_parallel",
                )
            rows.append(row)
        yield rows


def _read_row(tokens: Int32s, mask: Bools, pad_id: int, context_parallel: int) -> Row | None:
    """Return the row that is written as ``tokens`` and ``mask``; None: there is none."""
    num = len(tokens)
    if context_parallel > 1:
        others = np.flatnonzero(tokens != pad_id)
        num = int(others[-1]) + 1 if len(others) else 0
    first = np.flatnonzero(mask)
    row = Row(tokens[:num], int(first[0]) + 1 if len(first) else num + 1)
    written = pad_row(row, pad_id, context_parallel)
    same = np.array_equal(written[0], tokens) and np.array_equal(written[1], mask)
    return row._replace(prompt_tokens=min(row.prompt_tokens, num)) if same and num else None
