"""The system-call filter of the sandbox: a seccomp program, assembled from a table.

The program is a list of eight-byte instructions (opcode, jump if true, jump if false, value) that
the kernel runs before every system call. Refused calls return EPERM; ``clone3``, whose flags a
filter cannot see, returns ENOSYS, so that the C library falls back to ``clone``. Its shape::

    load architecture; not ours: refuse
    load number; in the table: refuse
    socket: load family;  not AF_UNIX: refuse
    clone:  load flags;   not a thread: refuse
    allow

Source: Linux, Documentation/userspace-api/seccomp_filter.rst. It never installs anything: the
worker does that to itself, before it reads the first program.
"""

import errno
import platform
import struct

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _FIRST_ARGUMENT_OFFSET = 0, 4, 16
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | errno.EPERM
_NOT_THERE = 0x00050000 | errno.ENOSYS
_AF_UNIX = 1
_CLONE_THREAD = 0x00010000
_FOREIGN_NUMBERS = 0x40000000
"""x86-64 numbers from here on are the x32 interface."""

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Machine -> its audit code and its column in the tables."""
_SPECIAL = {"socket": (41, 198), "clone": (56, 220), "clone3": (435, 435)}
_REFUSED: dict[str, tuple[int, int | None]] = {
    "fork": (57, None),
    "vfork": (58, None),
    "kill": (62, 129),
    "rt_sigqueueinfo": (129, 138),
    "pidfd_send_signal": (424, 424),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
}


def build_filter(machine: str | None = None) -> bytes | None:
    """Return the filter program for ``machine`` (this one), None where there is no table.

    New processes and signals to others are refused: a program stays in its one process, so that
    the limits of that process bound all it does, and its end is the end of everything.
    """
    known = _ARCHITECTURES.get(machine or platform.machine())
    if known is None:
        return None
    architecture, column = known
    program = [
        _instruction(_LOAD, _ARCHITECTURE_OFFSET),
        _instruction(_EQUAL, architecture, if_true=1),
        _instruction(_RETURN, _REFUSE),
        _instruction(_LOAD, _NUMBER_OFFSET),
        _instruction(_AT_LEAST, _FOREIGN_NUMBERS, if_false=1),
        _instruction(_RETURN, _REFUSE),
    ]
    for numbers in _REFUSED.values():
        number = numbers[column]
        if number is not None:
            program += _return_for(number, _REFUSE)
    program += _return_for(_SPECIAL["clone3"][column], _NOT_THERE)
    program += _allow_only(_SPECIAL["socket"][column], _EQUAL, _AF_UNIX)
    program += _allow_only(_SPECIAL["clone"][column], _ANY_BIT, _CLONE_THREAD)
    return b"".join([*program, _instruction(_RETURN, _ALLOW)])


def _return_for(number: int, result: int) -> list[bytes]:
    return [_instruction(_EQUAL, number, if_false=1), _instruction(_RETURN, result)]


def _allow_only(number: int, test: int, value: int) -> list[bytes]:
    """Allow call ``number`` when its first argument passes the test, refuse it otherwise."""
    return [
        _instruction(_EQUAL, number, if_false=4),
        _instruction(_LOAD, _FIRST_ARGUMENT_OFFSET),
        _instruction(test, value, if_false=1),
        _instruction(_RETURN, _ALLOW),
        _instruction(_RETURN, _REFUSE),
    ]


def _instruction(code: int, value: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
