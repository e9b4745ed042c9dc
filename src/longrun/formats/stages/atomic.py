"""Files and folders that appear whole or not at all: write aside, fsync, rename.

A name that exists is complete. What a killed process leaves behind is called ``.NAME.PID.tmp``,
is never read by anybody and is removed by ``remove_leftovers`` when the stage runs again.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from longrun.errors import ResourceError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that becomes ``path`` only when the block ends without an error.

    Raises:
        ResourceError: the disk (or a quota) is full; nothing named ``path`` was touched.
    """
    aside = _aside(path)
    try:
        with full_disk_named(path), open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        fsync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder that becomes ``path`` only when the block ends without an error.

    Raises:
        ResourceError: the disk (or a quota) is full; nothing named ``path`` was touched.
    """
    aside = _aside(path)
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with full_disk_named(path):
            aside.mkdir(parents=True)
            yield aside
            for inside in (*aside.rglob("*"), aside):
                fsync(inside)  # a folder's own flush makes the names in it last
        os.replace(aside, path)
        fsync(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``, whole or not at all."""
    with atomic_file(path) as file:
        file.write(text.encode())


def remove_leftovers(folder: Path) -> None:
    """Delete what writers that were killed left in ``folder`` (all levels)."""
    for path in list(folder.rglob(".*.tmp")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Make the content of a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Turn the operating system's "no space" into a ``ResourceError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise ResourceError(_full_disk(path)) from error


def _full_disk(path: Path) -> str:
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return (
        f"{path}: no space left to write it ({free / 1e6:.0f} MB free on that disk or a size limit"
        " of the shell); free some or set output_dir elsewhere, then run the same command again"
    )


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
