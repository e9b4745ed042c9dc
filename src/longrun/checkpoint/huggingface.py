"""Weights in Hugging Face safetensors files: streamed into a decoder, and written from tensors.

Names and shapes are those of transformers, so nothing is converted. Reading takes from each file
only what this rank stores; both ways one tensor at a time. A tied output
matrix is never stored twice.
"""

import json
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from longrun.errors import InputError
from longrun.nn.decoder import Decoder
from longrun.parallel.data import own_slices, stored_part

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
MAX_FILE_BYTES = 4 << 30
"""A larger model is written as several files."""
OUTPUT_MATRIX = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
_DERIVED = "rotary_emb.inv_freq"
"""Old exports store this buffer; it follows from the config."""

_STORED_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
"""Names of types in safetensors files."""

Shapes = Mapping[str, Sequence[int]]


@torch.no_grad()
def load_weights(folder: Path, model: Decoder) -> None:
    """Fill what this rank stores of every parameter from the safetensors files of ``folder``.

    Parameters keep their own dtype and device. Nothing is changed unless every name and shape fits.

    Raises:
        InputError: no weights, a missing, unknown or misshapen tensor, a weight that is not
            finite, or an output matrix that differs from the embedding in a tied model.
    """
    files = find_tensors(folder)
    parameters = dict(model.named_parameters())
    _check_names(folder, files, parameters.keys(), tied=model.arch.tied)
    for path in sorted(set(files.values())):
        with _opened(path) as file:
            _check_index(path, file.keys(), files)
            for name in file.keys():  # noqa: SIM118 - not a mapping
                target = parameters.get(name)
                if target is not None and list(target.shape) != _stored_shape(file, name):
                    raise InputError.at(path, None, _misshapen(name, file, target))
    for path in sorted(set(files.values())):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                if name in parameters:
                    part = file.get_slice(name)[own_slices(parameters[name])]
                    stored_part(parameters[name]).copy_(_finite(path, name, part))
    if model.arch.tied and OUTPUT_MATRIX in files:
        _check_tied(files[OUTPUT_MATRIX], parameters[EMBEDDING])


def find_tensors(folder: Path) -> dict[str, Path]:
    """Return the file of every tensor of a model folder with one file or with an index.

    Raises:
        InputError: there are no safetensors files, or one is missing or damaged.
    """
    single, index = folder / WEIGHTS_NAME, folder / INDEX_NAME
    if index.is_file():
        try:
            mapping = json.loads(index.read_text())["weight_map"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError.at(index, None, f"is damaged ({error})") from None
        return {name: folder / file for name, file in mapping.items()}
    if not single.is_file():
        raise InputError.at(
            folder, None, f"has neither {WEIGHTS_NAME} nor {INDEX_NAME}; save it as safetensors"
        )
    with _opened(single) as file:
        return dict.fromkeys(file.keys(), single)


class TensorFiles:
    """The tensors of a model folder, read one at a time.

    Raises:
        InputError: see ``find_tensors``.
    """

    def __init__(self, folder: Path) -> None:
        self._files = find_tensors(folder)
        for path in sorted(set(self._files.values())):
            with _opened(path) as file:
                _check_index(path, file.keys(), self._files)

    @property
    def names(self) -> list[str]:
        """Every tensor but those that follow from the config, file by file."""
        found = [name for name in self._files if not name.endswith(_DERIVED)]
        return sorted(found, key=lambda name: (self._files[name], name))

    def shape(self, name: str) -> list[int]:
        """Return the shape of a tensor."""
        with _opened(self._files[name]) as file:
            return _stored_shape(file, name)

    def dtype(self, name: str) -> str:
        """Return the type of a tensor, as torch names it without ``torch.``."""
        with _opened(self._files[name]) as file:
            stored: str = file.get_slice(name).get_dtype()
        known = {name: str(dtype).removeprefix("torch.") for dtype, name in _STORED_DTYPES.items()}
        return known.get(stored, stored)

    def read(self, name: str) -> Tensor:
        """Return a tensor as it is stored.

        Raises:
            InputError: a weight is not finite.
        """
        path = self._files[name]
        with _opened(path) as file:
            return _finite(path, name, file.get_tensor(name))

    def check_tied(self) -> None:
        """Check that the output matrix of a tied model is its embedding.

        Raises:
            InputError: it differs.
        """
        _check_tied(self._files[OUTPUT_MATRIX], self.read(EMBEDDING))


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


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise InputError.at(path, None, "is missing; copy the whole model folder") from None
    except SafetensorError as error:
        raise InputError.at(path, None, f"is damaged ({error}); copy it again") from None


def _write_whole(file: IO[bytes], left: memoryview) -> None:
    """Write all of ``left``; one call writes at most 2 GiB, and less on a disk that is filling."""
    while left:
        left = left[file.write(left) :]


def _header(shapes: Shapes, dtype: torch.dtype) -> bytes:
    """Return what a safetensors file begins with; the library itself cannot write in pieces."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, shape in shapes.items():
        end = begin + prod(shape) * dtype.itemsize
        entries[name] = {
            "dtype": _STORED_DTYPES[dtype],
            "shape": list(shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _check_names(folder: Path, files: Mapping[str, Path], wanted: object, *, tied: bool) -> None:
    expected = set(wanted)  # type: ignore[call-overload]  # the keys of a dict
    optional = {OUTPUT_MATRIX} if tied else set()
    missing = sorted(expected - files.keys())
    extra = sorted(
        name for name in files.keys() - expected - optional if not name.endswith(_DERIVED)
    )
    if missing or extra:
        raise InputError.at(
            folder,
            None,
            f"weights do not match config.json: missing {_few(missing)}; unknown {_few(extra)}",
        )


def _check_index(path: Path, held: Collection[str], files: Mapping[str, Path]) -> None:
    """Check that a file holds all that the index says it does: what it lacks would stay unset."""
    absent = sorted({name for name, file in files.items() if file == path}.difference(held))
    if absent:
        raise InputError.at(
            path, None, f"lacks what {INDEX_NAME} says it holds: {_few(absent)}; copy it again"
        )


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:3]) or "none"
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _misshapen(name: str, file: safe_open, target: Tensor) -> str:
    return (
        f"{name} has shape {_stored_shape(file, name)} but config.json asks for"
        f" {list(target.shape)}; one of them is wrong"
    )


def _stored_shape(file: safe_open, name: str) -> list[int]:
    return list(file.get_slice(name).get_shape())  # type: ignore[no-untyped-call]  # no stubs


def _finite(path: Path, name: str, tensor: Tensor) -> Tensor:
    # The extremes are not finite if one number is not, and take a fiftieth of isfinite's time.
    if tensor.numel() and not all(map(torch.isfinite, torch.aminmax(tensor))):
        count = int((~torch.isfinite(tensor)).sum())
        raise InputError.at(path, None, f"{name} has {count} weights that are NaN or infinite")
    return tensor


def _check_tied(path: Path, embedding: Tensor) -> None:
    with _opened(path) as file:
        same_shape = _stored_shape(file, OUTPUT_MATRIX) == list(embedding.shape)
        part = file.get_slice(OUTPUT_MATRIX)[own_slices(embedding)] if same_shape else None
    if part is None or not torch.equal(part.to(embedding.dtype), stored_part(embedding).cpu()):
        raise InputError.at(
            path,
            None,
            f"{OUTPUT_MATRIX} differs from {EMBEDDING} although config.json sets"
            " tie_word_embeddings; set it to false",
        )
