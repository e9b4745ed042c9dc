"""Weights in Hugging Face safetensors files: streamed into a decoder, and written from tensors.

Names and shapes are those of transformers, so nothing is converted. Reading takes from each file
only what this rank stores; both ways one tensor at a time. A tied output
matrix is never stored twice.
"""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from longrun.checkpoint.weight_files import (
    EMBEDDING,
    INDEX_NAME,
    OUTPUT_MATRIX,
    STORED_TYPES,
    WEIGHTS_NAME,
    check_weights,
    opened,
)
from longrun.errors import InputError
from longrun.nn.architecture import Arch
from longrun.nn.decoder import Decoder
from longrun.parallel.data import own_slices, stored_part

MAX_FILE_BYTES = 4 << 30
"""A larger model is written as several files."""

Shapes = Mapping[str, Sequence[int]]


@torch.no_grad()
def load_weights(folder: Path, model: Decoder) -> None:
    """Fill what this rank stores of every parameter from the safetensors files of ``folder``.

    Parameters keep their own dtype and device. Nothing is changed unless every name and shape fits.

    Raises:
        InputError: as ``check_weights``, a weight that is not finite, or an output matrix that
            differs from the embedding in a tied model.
    """
    tensors = check_weights(folder, model.arch)
    parameters = dict(model.named_parameters())
    for path in sorted({tensor.path for tensor in tensors.values()}):
        with opened(path) as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                if name in parameters:
                    part = file.get_slice(name)[own_slices(parameters[name])]
                    stored_part(parameters[name]).copy_(_finite(path, name, part))
    if model.arch.tied and OUTPUT_MATRIX in tensors:
        _check_tied(tensors[OUTPUT_MATRIX].path, parameters[EMBEDDING])


class TensorFiles:
    """The tensors of a model folder, read one at a time.

    Raises:
        InputError: see ``check_weights``.
    """

    def __init__(self, folder: Path, arch: Arch) -> None:
        self._tensors = check_weights(folder, arch)

    @property
    def names(self) -> list[str]:
        """Every tensor, file by file."""
        return sorted(self._tensors, key=lambda name: (self._tensors[name].path, name))

    def shape(self, name: str) -> list[int]:
        """Return the shape of a tensor."""
        return self._tensors[name].shape

    def dtype(self, name: str) -> str:
        """Return the type of a tensor, as torch names it without ``torch.``."""
        return self._tensors[name].dtype

    def read(self, name: str) -> Tensor:
        """Return a tensor as it is stored.

        Raises:
            InputError: a weight is not finite.
        """
        path = self._tensors[name].path
        with opened(path) as file:
            return _finite(path, name, file.get_tensor(name))

    def check_tied(self) -> None:
        """Check that the output matrix of a tied model is its embedding.

        Raises:
            InputError: it differs.
        """
        _check_tied(self._tensors[OUTPUT_MATRIX].path, self.read(EMBEDDING))


def write_weights(
    folder: Path,
    shapes: Shapes,
    read: Callable[[str], Tensor],
    dtype: torch.dtype,
    *,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> None:
    """Write tensors of the given ``shapes`` into ``folder``, rounded once to ``dtype``.

    ``read(name)`` is asked for each tensor once, in the order of ``shapes``.

    Raises:
        InputError: a weight is not finite (before or after rounding).
    """
    sizes = {name: prod(shape) * dtype.itemsize for name, shape in shapes.items()}
    files = plan_files(sizes, max_file_bytes)
    names = [_file_name(index, len(files)) for index in range(len(files))]
    for file_name, members in zip(names, files, strict=True):
        path = folder / file_name
        with path.open("wb", buffering=0) as file, ThreadPoolExecutor(1) as writer:
            header = memoryview(_header({key: shapes[key] for key in members}, dtype))
            last = writer.submit(_write_whole, file, header)
            for name in members:  # while one is written, the next is read
                tensor = _finite(path, name, read(name).to("cpu", dtype).contiguous())
                last.result()
                numbers = tensor.reshape(-1).view(torch.uint8).numpy().data
                last = writer.submit(_write_whole, file, numbers)
            last.result()
    if len(files) > 1:
        mapping = {
            name: file for file, members in zip(names, files, strict=True) for name in members
        }
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": mapping}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")


def plan_files(sizes: Mapping[str, int], max_file_bytes: int) -> list[list[str]]:
    """Cut the names into runs of at most ``max_file_bytes``; a larger tensor stands alone.

    >>> plan_files({"a": 3, "b": 3, "c": 9, "d": 1}, 6)
    [['a', 'b'], ['c'], ['d']]
    """
    files: list[list[str]] = []
    filled = 0
    for name, size in sizes.items():
        if not files or filled + size > max_file_bytes:
            files.append([])
            filled = 0
        files[-1].append(name)
        filled += size
    return files


def _file_name(index: int, count: int) -> str:
    return WEIGHTS_NAME if count == 1 else f"model-{index + 1:05d}-of-{count:05d}.safetensors"


def _write_whole(file: IO[bytes], left: memoryview) -> None:
    """Write all of ``left``; one call writes at most 2 GiB, and less on a disk that is filling."""
    while left:
        left = left[file.write(left) :]


def _header(shapes: Shapes, dtype: torch.dtype) -> bytes:
    """Return what a safetensors file begins with; the library itself cannot write in pieces."""
    stored = {name: key for key, name in STORED_TYPES.items()}
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, shape in shapes.items():
        end = begin + prod(shape) * dtype.itemsize
        entries[name] = {
            "dtype": stored[str(dtype).removeprefix("torch.")],
            "shape": list(shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _finite(path: Path, name: str, tensor: Tensor) -> Tensor:
    # The extremes are not finite if one number is not, and take a fiftieth of isfinite's time.
    if tensor.numel() and not all(map(torch.isfinite, torch.aminmax(tensor))):
        count = int((~torch.isfinite(tensor)).sum())
        raise InputError.at(path, None, f"{name} has {count} weights that are NaN or infinite")
    return tensor


def _check_tied(path: Path, embedding: Tensor) -> None:
    with opened(path) as file:
        part = file.get_slice(OUTPUT_MATRIX)[own_slices(embedding)]
    if not torch.equal(part.to(embedding.dtype), stored_part(embedding).cpu()):
        raise InputError.at(
            path,
            None,
            f"{OUTPUT_MATRIX} differs from {EMBEDDING} although config.json sets"
            " tie_word_embeddings; set it to false",
        )
