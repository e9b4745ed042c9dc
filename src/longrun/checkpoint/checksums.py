"""The checksums of a checkpoint: written with it, compared by whoever reads it; without torch.

A checkpoint must be trusted long before its training has finished and has a manifest, so each
carries ``checksums.json`` with the CRC-32 of every other file of its folder.
"""

import json
from pathlib import Path

from longrun.errors import InputError
from longrun.formats.stages.damage import checksum_of

CHECKPOINTS_NAME = "checkpoints"
CHECKSUMS_NAME = "checksums.json"


def read_checksums(path: Path) -> dict[str, int]:
    """Read the checksums of a complete checkpoint by the names of its files.

    Raises:
        InputError: they are missing or damaged.
    """
    try:
        found: dict[str, int] = dict(json.loads((path / CHECKSUMS_NAME).read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise damaged(path, error) from None
    return found


def known_checksums(run_folder: Path) -> dict[str, int]:
    """Return the checksums of all checkpoints of a training, by paths relative to its folder.

    Raises:
        InputError: those of one are damaged.
    """
    return {
        f"{CHECKPOINTS_NAME}/{file.parent.name}/{name}": checksum
        for file in (run_folder / CHECKPOINTS_NAME).glob(f"step-*/{CHECKSUMS_NAME}")
        for name, checksum in read_checksums(file.parent).items()
    }


def verify_file(path: Path, name: str) -> None:
    """Compare a file of the checkpoint ``path`` with its checksum.

    Raises:
        InputError: it differs, or one of the two is missing.
    """
    expected = read_checksums(path).get(name)
    try:
        if checksum_of(path / name) != expected:
            raise ValueError(f"{name} is not as it was written")
    except (OSError, ValueError) as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: BaseException) -> InputError:
    """Return the error for a checkpoint that cannot be read."""
    return InputError.at(
        path,
        None,
        f"cannot be read ({error}); delete this folder and run again to continue from the one"
        " before it",
    )
