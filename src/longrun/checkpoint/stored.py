"""The weights of a checkpoint where they lie: what averaging reads, at the speed of memory.

torch's own loader reads the metadata for every call, unpickles every piece and copies it twice.
A piece is an uncompressed entry of a zip archive, so its numbers can be read where they lie. Which
pieces there are, and where, still comes from torch's index (see ``metadata``), and an archive whose
entry is not exactly the piece is refused. Source of the format:
``torch.distributed.checkpoint.filesystem``.
"""

import os
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from isal import isal_zlib
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from longrun.checkpoint.checksums import damaged, verify_file
from longrun.checkpoint.metadata import METADATA_NAME, read_metadata
from longrun.checkpoint.sharded import MODEL_PREFIX
from longrun.formats.closes import Closes

_LOCAL_HEADER = struct.Struct("<26xHH")
"""Zip: lengths of the name and of the extra field, after 26 bytes of what is known already."""
_NUMBERS = "/data/0"
"""End of the name of the entry that holds a tensor's numbers."""


class Piece(NamedTuple):
    """A stretch of a parameter that one rank saved."""

    place: tuple[slice, ...]
    """Where in the whole parameter it belongs."""
    sizes: tuple[int, ...]
    dtype: torch.dtype
    file: int
    begin: int
    """Byte of the file at which its numbers begin, row after row."""
    checkpoint: Path
    checked: "Checked"

    def read_rows(self, begin: int, end: int, buffer: Tensor) -> Tensor:
        """Read rows of the piece into ``buffer`` [bytes] and return them as [end - begin, ...].

        When all rows were read in order, they have been compared with their checksum.

        Raises:
            InputError: the file ends before them, or they are not as they were written.
        """
        row = prod(self.sizes[1:]) * self.dtype.itemsize
        wanted = buffer[: (end - begin) * row]
        left, at = wanted.numpy().data, self.begin + begin * row
        while left:
            count = os.preadv(self.file, [left], at)
            if not count:
                error = OSError(f"ends at byte {at}, {len(left)} bytes too early")
                raise damaged(self.checkpoint, error)
            left, at = left[count:], at + count
        if not self.checked.pass_on(wanted.numpy().data, begin, end, last=self.sizes[0]):
            error = OSError("numbers are not as they were written")
            raise damaged(self.checkpoint, error)
        return wanted.view(self.dtype).view(end - begin, *self.sizes[1:])


@dataclass(slots=True)
class Checked:
    """The checksum of a piece, formed while its rows are read one after the other."""

    expected: int
    """CRC-32 of all of its bytes."""
    rows: int = 0
    """Rows that are in ``found``."""
    found: int = 0

    def pass_on(self, content: memoryview, begin: int, end: int, *, last: int) -> bool:
        """Take in the rows ``begin : end``; say whether nothing speaks against the piece yet.

        Rows out of order are not taken in. ``last``: the end of the piece's last row.
        """
        if begin == self.rows:
            self.found, self.rows = isal_zlib.crc32(content, self.found), end
        return self.rows < last or self.found == self.expected


class StoredCheckpoint(Closes):
    """The parameters of one checkpoint, whatever layout saved it; a context that closes files."""

    def __init__(self, path: Path) -> None:
        """Read the metadata and nothing else.

        Raises:
            InputError: the checkpoint is damaged.
        """
        self._path = path
        self._files: dict[str, IO[bytes]] = {}
        verify_file(path, METADATA_NAME)
        metadata = read_metadata(path)
        self._tensors: Mapping[str, TensorStorageMetadata] = {
            name.removeprefix(MODEL_PREFIX): entry
            for name, entry in metadata.state_dict_metadata.items()
            if name.startswith(MODEL_PREFIX) and isinstance(entry, TensorStorageMetadata)
        }
        self._stored: dict[tuple[str, tuple[int, ...]], Any] = {
            (index.fqn.removeprefix(MODEL_PREFIX), tuple(index.offset or ())): info
            for index, info in (metadata.storage_data or {}).items()
        }

    def close(self) -> None:
        """Close the files that were read."""
        for file in self._files.values():
            file.close()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter by its Hugging Face name."""
        return {name: tuple(entry.size) for name, entry in self._tensors.items()}

    def pieces(self, name: str) -> list[Piece]:
        """Return the pieces of a parameter, together all of it, and have the kernel fetch them.

        Raises:
            InputError: a file is missing or damaged.
        """
        entry = self._tensors[name]
        try:
            return [
                self._piece(self._stored[name, tuple(chunk.offsets)], entry, chunk)
                for chunk in entry.chunks
                if prod(chunk.sizes)  # a rank's share may be empty
            ]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, struct.error) as error:
            raise damaged(self._path, error) from None

    def _piece(self, info: Any, entry: TensorStorageMetadata, chunk: Any) -> Piece:
        file = self._opened(info.relative_path)
        archive = zipfile.ZipFile(_Stretch(file, info.offset, info.length))
        entries = (one for one in archive.infolist() if one.filename.endswith(_NUMBERS))
        numbers = next(entries, None)
        if numbers is None:
            raise ValueError(f"{info.relative_path}: a piece holds no tensor")
        dtype, sizes = entry.properties.dtype, tuple(chunk.sizes)
        stored = numbers.compress_type == zipfile.ZIP_STORED
        if not stored or numbers.file_size != prod(sizes) * dtype.itemsize:
            raise ValueError(f"{info.relative_path}: a piece is not {prod(sizes)} numbers")
        header = info.offset + numbers.header_offset
        lengths = _LOCAL_HEADER.unpack(os.pread(file, _LOCAL_HEADER.size, header))
        begin = header + _LOCAL_HEADER.size + sum(lengths)
        os.posix_fadvise(file, begin, numbers.file_size, os.POSIX_FADV_WILLNEED)
        ends = (start + size for start, size in zip(chunk.offsets, sizes, strict=True))
        place = tuple(map(slice, chunk.offsets, ends))
        return Piece(place, sizes, dtype, file, begin, self._path, Checked(numbers.CRC))

    def _opened(self, name: str) -> int:
        if name not in self._files:
            self._files[name] = open(self._path / name, "rb", buffering=0)  # noqa: SIM115
        return self._files[name].fileno()


class _Stretch:
    """A file over a stretch of another, as far as ``zipfile`` reads one."""

    def __init__(self, file: int, begin: int, length: int) -> None:
        self._file, self._begin, self._length, self._at = file, begin, length, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._length)[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        size = self._length - self._at if size < 0 else min(size, self._length - self._at)
        found = os.pread(self._file, size, self._begin + self._at)
        self._at += len(found)
        return found
