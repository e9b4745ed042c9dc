"""Processes: how many this one may use, and workers that never outlive their starter."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def available_cores() -> int:
    """Return the cores this process may run on; where that is not known, those of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
