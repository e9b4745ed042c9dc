"""torch's index of a sharded checkpoint, read without running what a stranger put there.

``.metadata`` is a pickle, and torch reads it with ``pickle.load``: whoever can write that file runs
code in every process that resumes, averages or checks. Here only the classes that describe tensors
are known. An index that names anything else, an entry that is no tensor (torch unpickles those
freely later on), a file outside the checkpoint or a transformed one is refused. The tensors
themselves are read by torch with ``weights_only``, or as plain numbers by ``stored``.
"""

import pickle
import re
from pathlib import Path, PurePosixPath
from typing import IO, Any

import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata

from longrun.checkpoint.checksums import damaged

METADATA_NAME = ".metadata"
_KNOWN: dict[tuple[str, str], Any] = {
    (kind.__module__, kind.__qualname__): kind
    for kind in (
        metadata.Metadata,
        metadata.TensorStorageMetadata,
        metadata.TensorProperties,
        metadata.ChunkStorageMetadata,
        metadata.MetadataIndex,
        metadata.StorageMeta,
        metadata._MEM_FORMAT_ENCODING,
        filesystem._StorageInfo,
        torch.serialization._get_layout,
        torch.Size,
    )
}
_KNOWN |= {
    ("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)
}
_KNOWN |= {
    (module, name): PurePosixPath  # where it was saved: for information only
    for module in ("pathlib", "pathlib._local")
    for name in ("PosixPath", "PurePosixPath")
}
_FILE = re.compile(r"__\d+_\d+\.distcp\Z")


def read_metadata(path: Path) -> Metadata:
    """Read the index of the checkpoint in the folder ``path``.

    Raises:
        InputError: it is absent, damaged, or holds what no training writes.
    """
    try:
        with open(path / METADATA_NAME, "rb") as file:
            found = _checked(_Unpickler(file).load())
    except Exception as error:  # noqa: BLE001 - a torn pickle raises whatever it likes
        raise damaged(path, error) from None
    return found


class CheckedReader(FileSystemReader):
    """torch's reader of a checkpoint whose index was read by ``read_metadata``."""

    def __init__(self, path: Path) -> None:
        """Read the index.

        Raises:
            InputError: as ``read_metadata``.
        """
        super().__init__(path)
        self._metadata = read_metadata(path)

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """Return the index; torch's own would unpickle the file."""
        return self._metadata


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"{METADATA_NAME} names {module}.{name}, which describes no tensor"
            ) from None


def _checked(found: object) -> Metadata:
    """Return ``found``; ``ValueError`` unless it lists tensors in files of the checkpoint alone."""
    if not isinstance(found, Metadata):
        raise ValueError(f"{METADATA_NAME} holds no index")
    for name, entry in found.state_dict_metadata.items():
        if not (isinstance(name, str) and isinstance(entry, TensorStorageMetadata)):
            raise ValueError(f"{name!r} is not a tensor")
    for index, info in (found.storage_data or {}).items():
        if not isinstance(index, MetadataIndex) or not isinstance(info, filesystem._StorageInfo):
            raise ValueError(f"{METADATA_NAME} does not say where its tensors lie")
        if not _FILE.match(info.relative_path) or info.transform_descriptors:
            raise ValueError(f"{info.relative_path!r} is not a file of a training's checkpoint")
    return found
