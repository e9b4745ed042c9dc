"""How a sandbox worker is shut in: the command line, environment and limits of each mode.

``bubblewrap``: namespaces of its own for processes, network, mounts, host name and IPC. It sees
``/usr``, the interpreter and its packages read-only, and one scratch folder in memory with a bound
on bytes and files. The worker is the only process inside, the first one of its namespace: there is
no other to take over. Started by root it changes to an unprivileged user id of its own (root is
exempt from the limit on processes); started by anybody else it lives in a user namespace.

``process``: no namespaces; it reads every file that its user may. Where the kernel has Landlock it
changes none but those of its scratch folder, whose size nothing bounds. Only for code you trust.

Both limit time, memory, open files and file size, and install the filter of ``system_calls``: no
new processes, no signals to others, no network. The worker gives up every capability before it
reads the first block; it has those that it needs for that, and no others, from bubblewrap.
"""

import json
import os
import secrets
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from longrun.config.evaluation import SandboxSettings
from longrun.evaluation.sandbox.system_calls import build_filter

WORKER = Path(__file__).with_name("sandbox_worker.py")
_SCRATCH_BYTES = 64 << 20
_SCRATCH_FILES = 10_000
_FILE_BYTES = 16 << 20
_THREADS = 64
_DEVICES = ("null", "zero", "full", "random", "urandom")
_CPU_FACTOR = 32
"""CPU seconds of a whole session per second that one block may take."""
_USER_IDS = range(20_000, 60_000)
"""Ids for workers started by root: each session draws one, so that they do not share a limit."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What a worker is started with; ``scratch`` is a folder to make and remove, or None."""

    command: list[str]
    environment: dict[str, str]
    needs_scratch: bool


def plan_launch(settings: SandboxSettings, bubblewrap: str | None) -> Launch:
    """Return how to start one worker; ``bubblewrap`` is the program, None in ``process`` mode."""
    python = [sys.executable, "-P", "-s"]
    if bubblewrap is None:
        limits = _limits(settings, None, shut_in=False)
        return Launch([*python, str(WORKER), limits], _environment(None), True)
    is_root = os.geteuid() == 0
    uid = secrets.choice(_USER_IDS) if is_root else None
    command = [bubblewrap, *_namespaces(is_root), *_file_system(), "--", *python, "/worker.py"]
    limits = _limits(settings, uid, shut_in=True)
    return Launch([*command, limits], _environment("/scratch"), False)


def _limits(settings: SandboxSettings, uid: int | None, *, shut_in: bool) -> str:
    return json.dumps(
        {
            "memory_bytes": settings.memory_bytes,
            "cpu_seconds": int(settings.timeout_seconds * _CPU_FACTOR) + 1,
            "file_bytes": _FILE_BYTES,
            "processes": _THREADS + (0 if shut_in else _tasks_of_this_user()),
            "uid": uid,
            "scratch_options": f"nr_inodes={_SCRATCH_FILES}" if shut_in else "",
            "confine": not shut_in,
            "filter": (build_filter() or b"").hex(),
            "output_chars": settings.output_chars,
            "packages": settings.packages,
            "timeout_seconds": settings.timeout_seconds,
        }
    )


def _environment(home: str | None) -> dict[str, str]:
    """Nothing of the parent's environment; one thread per library, repeatable hashes."""
    return {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        **({"HOME": home} if home else {}),
    }


def _tasks_of_this_user() -> int:
    """Count the threads of this user: outside a namespace the limit counts all of them."""
    found = 0
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if path.stat().st_uid == os.geteuid():
                found += len(os.listdir(path / "task"))
    return found


def _namespaces(is_root: bool) -> list[str]:
    shared = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    shared += ["--unshare-cgroup-try", "--hostname", "sandbox", "--die-with-parent", "--as-pid-1"]
    shared += ["--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN"]
    if is_root:
        return [*shared, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return [*shared, "--unshare-user"]


def _file_system() -> list[str]:
    bound = ["--ro-bind", "/usr", "/usr", "--perms", "0755", "--dir", "/etc"]
    bound += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for name in ("bin", "sbin", "lib", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            bound += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            bound += ["--ro-bind", str(path), str(path)]
    for folder in _interpreter_folders():
        bound += [*_parents(folder), "--ro-bind", folder, folder]
    bound += ["--perms", "0755", "--dir", "/dev"]
    for name in _DEVICES:
        bound += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    return [
        *bound,
        *("--ro-bind", str(WORKER), "/worker.py", "--proc", "/proc"),
        *("--size", str(_SCRATCH_BYTES), "--perms", "1777", "--tmpfs", "/scratch"),
        *("--chdir", "/scratch", "--remount-ro", "/"),
    ]


def _interpreter_folders() -> list[str]:
    """Return where the interpreter and its packages lie, outside ``/usr``."""
    prefixes = [os.path.realpath(sys.base_prefix), sys.base_prefix, sys.prefix]
    # An environment may lend the packages of another one.
    packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    found: list[str] = []
    for path in (*prefixes, *packages):
        known = any(Path(path).is_relative_to(above) for above in ("/usr", *found))
        if not known and Path(path).is_dir():
            found.append(path)
    return found


def _parents(path: str) -> list[str]:
    """Make the folders above ``path`` passable: outside they may be closed to other users."""
    above = [parent for parent in reversed(Path(path).parents) if parent != Path("/")]
    return [word for parent in above for word in ("--perms", "0755", "--dir", str(parent))]
