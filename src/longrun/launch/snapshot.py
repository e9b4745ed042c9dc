"""Code kept with a job: a job that starts tomorrow runs what was submitted today.

A copy lies in ``<job_dir>/code/<hash of its content>``: equal code, one copy, however many jobs.
A copy is never changed, and appears whole or not at all.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import longrun
from longrun.errors import InputError
from longrun.formats.stages.atomic import atomic_folder

CODE_FOLDER = "code"
MAX_BYTES = 256 << 20
"""Bound of a copy of a repository; data belongs elsewhere."""
_NOT_CODE = {"__pycache__", ".git"}


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of code that is made when a job is submitted, and only named in a dry run."""

    root: Path
    names: Mapping[Path, Path]
    """File -> its name below ``root``."""
    place: Path
    """Absolute; where the copy lies or will lie."""

    def make(self) -> None:
        """Copy the files unless that was done before."""
        if self.place.exists():
            return
        self.place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with atomic_folder(self.place) as aside:
                for path, name in self.names.items():
                    (aside / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, aside / name)
        except OSError:
            if not self.place.exists():  # somebody else made the same copy in the meantime
                raise


def copy_longrun(job_dir: Path) -> Copy:
    """Name the copy of Longrun's own package; its place belongs on PYTHONPATH."""
    package = Path(longrun.__file__).parent
    return _copy(package.parent, [path for path in package.rglob("*") if _is_code(path)], job_dir)


def copy_repository(folder: Path, job_dir: Path) -> Copy:
    """Name the copy of what git does not ignore in the repository around ``folder``.

    Raises:
        InputError: there is no repository, or it is too large to copy.
    """
    root = Path(_git(folder, "rev-parse", "--show-toplevel").strip())
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    files = [path for name in listed.split("\0") if name and (path := root / name).is_file()]
    size = sum(path.stat().st_size for path in files)
    if size > MAX_BYTES:
        largest = max(files, key=lambda path: path.stat().st_size)
        raise InputError.at(
            root,
            None,
            f"holds {size >> 20} MiB that git does not ignore, above {MAX_BYTES >> 20} (largest:"
            f" {largest.relative_to(root)}); list data in .gitignore or set code: longrun",
        )
    return _copy(root, files, job_dir)


def _copy(root: Path, files: list[Path], job_dir: Path) -> Copy:
    names = {path: path.relative_to(root) for path in sorted(files)}
    return Copy(root, names, job_dir.absolute() / CODE_FOLDER / _hash_of(names))


def _hash_of(names: Mapping[Path, Path]) -> str:
    digest = hashlib.sha256()
    for path, name in sorted(names.items(), key=lambda pair: str(pair[1])):
        content = path.read_bytes()
        executable = os.access(path, os.X_OK)
        digest.update(f"{name}\0{executable}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def _is_code(path: Path) -> bool:
    return path.is_file() and _NOT_CODE.isdisjoint(path.parts)


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["git failed"])[-1]
        raise InputError.at(folder, None, f"{reason}; code: repository needs a git repository")
    return done.stdout
