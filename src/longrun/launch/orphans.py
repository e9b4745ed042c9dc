"""Jobs of this machine whose command line was killed: find their processes and end them.

A job's processes lead a group of their own, and all of them hold the job's lock open. Only a group
in which a process does so is ever signalled, so a number that the system gave away again hits
nobody.
"""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from longrun.formats.stages.atomic import write_text
from longrun.launch.jobs import is_running_here

STOP_SECONDS = 60.0
"""What a job gets to save and stop before it is killed."""
_PROCESS_NAME = "process"
_GONE_SECONDS = 5.0
"""What the system gets to end killed processes."""
_POLL_SECONDS = 0.05


def note_process(folder: Path, process: int) -> None:
    """Write down in ``folder``, that of a job or of one of its parts, which process leads it."""
    write_text(folder / _PROCESS_NAME, f"{process} {socket.gethostname()}\n")


def end_orphan(folder: Path) -> bool:
    """End what still runs of the job in ``folder``; False: it goes on, out of reach from here."""
    lock = str((folder / "lock").resolve())
    for group in list(_groups(folder, lock)):
        with suppress(ProcessLookupError):
            os.kill(group, signal.SIGTERM)  # the leader passes it on and waits for its command
        _wait_while(lambda: _holds(group, lock), STOP_SECONDS)  # noqa: B023 - called at once
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    _wait_while(lambda: is_running_here(folder), _GONE_SECONDS)
    return not is_running_here(folder)


def _wait_while(goes_on: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while goes_on() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def _groups(folder: Path, lock: str) -> Iterator[int]:
    """Yield the process groups of the job that are alive on this machine."""
    for place in (folder, *folder.glob("parts/*")):
        with suppress(FileNotFoundError, ValueError):
            number, host = (place / _PROCESS_NAME).read_text().split()
            group = int(number)
            if host == socket.gethostname() and any(_holds(p, lock) for p in _members(group)):
                yield group


def _members(group: int) -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(ProcessLookupError):
                if os.getpgid(int(name)) == group:
                    yield int(name)


def _holds(process: int, lock: str) -> bool:
    folder = f"/proc/{process}/fd"
    try:
        names = os.listdir(folder)
    except OSError:  # it has ended, or belongs to somebody else
        return False
    for name in names:
        with suppress(OSError):
            if os.readlink(f"{folder}/{name}") == lock:
                return True
    return False
