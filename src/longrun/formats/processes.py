"""Processes: how many this one may use, what it gives back, and workers that end with it."""

import ctypes
import os
import signal
import sys

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""What asks a training to stop after its step, with a checkpoint."""
_PR_SET_PDEATHSIG = 1
_STATM = "/proc/self/statm"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def available_cores() -> int:
    """Return the cores this process may run on; where that is not known, those of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resident_bytes() -> int:
    """Return the memory this process holds now; 0 where the system does not tell."""
    try:
        with open(_STATM, "rb", buffering=0) as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except FileNotFoundError:
        return 0


def release_memory() -> None:
    """Give memory that was freed back to the system, at once.

    The C library keeps it for later, scattered between what is still in use; that can be more than
    half of what a process holds. Without effect where the C library is not glibc.
    Source: malloc_trim(3).
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends, however that happens.

    Called first thing in a worker; ``parent`` is the process id of the starter, so that a starter
    that died in between is noticed. Without effect where the kernel is not Linux.
    Source: prctl(2).
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
