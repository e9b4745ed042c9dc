"""Content fingerprints of settings, files and finished stages.

A finished stage is known by its manifest, a file by its bytes. Files above ``WHOLE_FILE_BYTES``
are known by their size and ``WINDOWS`` evenly spaced windows of 1 MiB: reading 100 GB twice only
to name them would cost more than preparing them.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from longrun.errors import InputError
from longrun.formats.stages.damage import VERIFIED_NAME, check_sizes, stage_around
from longrun.formats.stages.manifest import MANIFEST_NAME, Manifest

WHOLE_FILE_BYTES = 1 << 28
WINDOWS = 64
_WINDOW_BYTES = 1 << 20


def of_value(value: Mapping[str, Any]) -> str:
    """Fingerprint a JSON-able ``value``: independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def of_path(path: Path, name: str) -> str:
    """Fingerprint what is at ``path``: a finished stage, a file, or a folder of files.

    Raises:
        InputError: nothing is there; says that ``name`` is to be corrected. Or it is output of a
            stage of which a file is missing or has another size.
    """
    around = stage_around(path)
    if around is not None:
        check_sizes(*around)
    if (path / MANIFEST_NAME).is_file():
        return Manifest.read(path).fingerprint
    if path.is_file():
        return _of_file(path)
    if path.is_dir():
        files = sorted(inside for inside in path.rglob("*") if inside.is_file())
        files = [file for file in files if file.name != VERIFIED_NAME]
        return of_value({str(file.relative_to(path)): _of_file(file) for file in files})
    raise InputError.at(
        path, None, f"does not exist; correct {name} or run the stage that makes it"
    )


def of_inputs(inputs: Mapping[str, Iterable[Path]]) -> dict[str, dict[str, str]]:
    """Fingerprint every path of every named input: ``{name: {path: fingerprint}}``, in order."""
    return {
        name: {str(path): of_path(path, name) for path in paths} for name, paths in inputs.items()
    }


def _of_file(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        if size <= WHOLE_FILE_BYTES:
            while block := file.read(_WINDOW_BYTES):
                digest.update(block)
        else:
            for window in range(WINDOWS):
                file.seek((size - _WINDOW_BYTES) * window // (WINDOWS - 1))
                digest.update(file.read(_WINDOW_BYTES))
    return digest.hexdigest()[:32]
