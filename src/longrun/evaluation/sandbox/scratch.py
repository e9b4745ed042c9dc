"""Scratch folders that are removed for sure: also after a kill, and however deep they are.

A ``Scratch`` holds a lock on its folder as long as its process lives. What a killed run left has
no lock any more, and the next ``Scratch`` removes it.
"""

import fcntl
import logging
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

_PREFIX = "longrun-code-"
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
log = logging.getLogger(__name__)


class Scratch:
    """A locked folder under the system's temporary folder; ``make`` gives folders inside it."""

    def __init__(self) -> None:
        """Remove what killed runs of this user left, then make the folder."""
        _sweep()
        self._lock: int | None = None
        while self._lock is None:  # until it was locked before a sweep elsewhere found it
            self._path = Path(tempfile.mkdtemp(prefix=_PREFIX))
            self._lock = _lock(self._path)

    def make(self) -> str:
        """Return a new empty folder."""
        return tempfile.mkdtemp(dir=self._path)

    def close(self) -> None:
        """Remove the folder and all in it."""
        if self._lock is not None:
            remove_tree(self._path)
            os.close(self._lock)
            self._lock = None


def remove_tree(top: Path) -> None:
    """Remove a folder of any depth, whatever its modes are; what resists is logged.

    Folders are moved up to ``top`` before they are opened, so no path is ever long:
    ``top/a/b/c`` becomes ``top/a, top/x (b/c)``, then ``top/x, top/y (c)``, then nothing.
    """
    try:
        os.chmod(top, 0o700)
        at = os.open(top, _OPEN)
        try:
            waiting = _clear(at, at)
            while waiting:
                name = waiting.pop()
                inside = os.open(name, _OPEN, dir_fd=at)
                try:
                    waiting += _clear(inside, at)
                finally:
                    os.close(inside)
                os.rmdir(name, dir_fd=at)
        finally:
            os.close(at)
        os.rmdir(top)
    except OSError as error:
        log.warning("sandbox: scratch folder %s was not removed (%s)", top, error.strerror)


def _clear(folder: int, top: int) -> list[str]:
    """Remove the files of ``folder``, move its folders to ``top``; return their new names."""
    moved = []
    with os.scandir(folder) as listing:
        entries = list(listing)
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.name, dir_fd=folder)
            continue
        os.chmod(entry.name, 0o700, dir_fd=folder)
        moved.append(secrets.token_hex(16))
        os.rename(entry.name, moved[-1], src_dir_fd=folder, dst_dir_fd=top)
    return moved


def _sweep() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another run removes it at this moment
            if path.is_symlink() or path.stat().st_uid != os.geteuid():
                continue
            lock = _lock(path)
            if lock is not None:
                log.info("sandbox: removing %s, left by a run that was killed", path)
                remove_tree(path)
                os.close(lock)


def _lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock of ``path``; None when it is held or gone."""
    descriptor = -1
    try:
        descriptor = os.open(path, _OPEN)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except OSError:
        pass
    if descriptor >= 0:
        os.close(descriptor)
    return None
