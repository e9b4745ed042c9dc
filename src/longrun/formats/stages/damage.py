"""Damage to what a finished stage made: noticed on use, by size, and on first reading, by content.

The manifest holds the size and the CRC-32 of every file. Sizes are compared whenever a stage's
output is used. Contents are compared when a stage reads them for the first time; what was found
whole is remembered in ``.verified.json`` of the folder, by size, times and inode, so the next
reader only looks whether the files are still those. Where that file cannot be written (a read-only
disk) the next reader compares again. CRC-32 is against accidents and slips, not against somebody
who also writes the manifest anew.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

from isal import isal_zlib

from longrun.errors import InputError, ResourceError
from longrun.formats.stages.atomic import write_text
from longrun.formats.stages.manifest import (
    CONFIG_NAME,
    LOCK_NAME,
    MANIFEST_NAME,
    STARTED_NAME,
    Manifest,
)

VERIFIED_NAME = ".verified.json"
NOT_OUTPUT = frozenset({MANIFEST_NAME, STARTED_NAME, LOCK_NAME, CONFIG_NAME, VERIFIED_NAME})
"""Files of a stage's folder that are not its output."""
_BLOCK_BYTES = 1 << 20
_FOUND_BY_PATTERN = ".idx"
"""End of the names of files that readers look for, instead of being told."""
_DEPTH = 4
"""Levels below a stage's folder at which something is looked at as part of its output."""

Seen = list[int]
"""Size, times of the last change of content and of the entry in nanoseconds, inode, CRC-32."""


def stage_around(path: Path) -> tuple[Path, str] | None:
    """Return the folder of the finished stage that ``path`` is or lies in, and where in it."""
    for folder in (path, *list(path.parents)[:_DEPTH]):
        if (folder / MANIFEST_NAME).is_file() and (folder / CONFIG_NAME).is_file():
            inside = path.relative_to(folder).as_posix()
            return folder, "" if inside == "." else inside
    return None


def check_sizes(folder: Path, within: str = "") -> None:
    """Compare the size of every output of the finished stage in ``folder`` below ``within``.

    Raises:
        InputError: a file is missing or has another size, or a folder that the output speaks of
            is gone or was made anew.
    """
    manifest = Manifest.read(folder)
    for name, size in manifest.outputs.items():
        if _is_within(name, within) and (damage := _wrong_size(folder / name, size)):
            raise _refusal(folder, damage)
    if not within:
        check_beneath(folder, manifest)


def check_beneath(folder: Path, manifest: Manifest) -> None:
    """Check that the folders which the output in ``folder`` speaks of are those it was made of.

    Raises:
        InputError: one is gone, damaged, or was made anew with other settings or inputs.
    """
    for name, fingerprint in manifest.beneath.items():
        other = Path(os.path.normpath(folder.resolve() / name))
        if not (other / MANIFEST_NAME).is_file():
            raise InputError.at(folder, None, f"its {other} is gone; make it again")
        if Manifest.read(other).fingerprint != fingerprint:
            raise InputError.at(
                folder,
                None,
                f"speaks of {other} as it was, but that was made anew with other settings or"
                f" inputs; run {manifest.verb} again",
            )
        check_sizes(other)


def verify(path: Path, unread: Iterable[str] = (), *, anew: bool = False) -> None:
    """Compare the content of what is read of a finished stage's output, and of what it speaks of.

    ``path`` is the folder of a stage or lies in one; anything else is known by its content already.
    ``unread``: patterns of names that the reader leaves alone. ``anew``: trust no earlier reading.

    Raises:
        InputError: a file is damaged, missing, or not one that the stage wrote.
    """
    found = stage_around(path)
    if found is None:
        return
    folder, within = found
    skipped = tuple(unread)
    damage = next(_damage(folder, within, skipped, anew=anew), None)
    if damage is not None:
        raise _refusal(folder, damage)
    if not within:
        manifest = Manifest.read(folder)
        check_beneath(folder, manifest)
        for name in manifest.beneath:
            verify(Path(os.path.normpath(folder.resolve() / name)), skipped, anew=anew)


def find_damage(folder: Path) -> Iterator[str]:
    """Yield what is wrong with the output of the finished stage in ``folder``, a line for a file.

    Every byte is read. Files that the stage did not write are named too.

    Raises:
        InputError: the stage has not finished.
    """
    manifest = Manifest.read(folder)
    yield from _damage(folder, "", (), anew=True)
    for name in _files(folder):
        if name not in manifest.outputs and not name.endswith(_FOUND_BY_PATTERN):
            yield f"{folder / name}: {_STRANGE}"


def checksum_of(path: Path) -> int:
    """Return the CRC-32 of the bytes of a file."""
    checksum, buffer = 0, memoryview(bytearray(_BLOCK_BYTES))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            checksum = isal_zlib.crc32(buffer[:count], checksum)
    return checksum


def list_outputs(folder: Path, known: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Return size and CRC-32 of every output in ``folder``; of some the CRC-32 is ``known``."""
    names = list(_files(folder))
    sizes = {name: (folder / name).stat().st_size for name in names}
    sums = {name: known[name] if name in known else checksum_of(folder / name) for name in names}
    return sizes, sums


def _damage(folder: Path, within: str, unread: tuple[str, ...], *, anew: bool) -> Iterator[str]:
    manifest = Manifest.read(folder)
    before = {} if anew else _remembered(folder)
    seen: dict[str, Seen] = dict(before)
    for name, size in manifest.outputs.items():
        if not _is_within(name, within) or any(fnmatch(name, one) for one in unread):
            continue
        path, expected = folder / name, manifest.checksums[name]
        if damage := _wrong_size(path, size):
            yield damage
        elif before.get(name) != (now := _seen(path, expected)):
            if (found := checksum_of(path)) == expected:
                seen[name] = now
            else:
                yield f"{path}: is damaged (CRC-32 {found:08x}, written as {expected:08x})"
    for name in _files(folder):
        if name.endswith(_FOUND_BY_PATTERN) and name not in manifest.outputs:
            yield f"{folder / name}: {_STRANGE}"
    if seen != before:
        with suppress(OSError, ResourceError):  # read-only or full: compared again next time
            write_text(folder / VERIFIED_NAME, json.dumps(seen))


_STRANGE = "is not one of the files that were written"


def _files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name not in NOT_OUTPUT and path.is_file():
            yield name


def _remembered(folder: Path) -> dict[str, Seen]:
    try:
        found = json.loads((folder / VERIFIED_NAME).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _seen(path: Path, checksum: int) -> Seen:
    status = path.stat()
    times = status.st_mtime_ns, status.st_ctime_ns
    return [status.st_size, *times, status.st_ino, checksum]


def _wrong_size(path: Path, size: int) -> str:
    try:
        found = path.stat().st_size
    except OSError:
        return f"{path}: is missing"
    return "" if found == size else f"{path}: has {found} bytes, written were {size}"


def _is_within(name: str, within: str) -> bool:
    return not within or name == within or name.startswith(f"{within}/")


def _refusal(folder: Path, damage: str) -> InputError:
    return InputError(f"{damage}; restore it, or delete {folder} and run its stage again")
