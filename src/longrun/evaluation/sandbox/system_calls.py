"""The system-call filter of the sandbox: a seccomp program, assembled from a table.

The program is a list of eight-byte instructions (opcode, jump if true, jump if false, value) that
the kernel runs before every system call. Refused calls return EPERM; calls newer than the table,
and ``clone3``, whose flags a filter cannot see, return ENOSYS, so that the C library falls back to
older ones. Its shape::

    load architecture; not ours: refuse
    load number; newer than the table: not there; in the table: refuse
    chmod and its like: pretend
    clone: load flags;            not a thread: refuse
    socketpair: load family, type; not AF_UNIX and a stream: refuse
    prlimit64 and its like: load process; another one: refuse
    prctl, fcntl, ioctl: load command; one that reaches others: refuse
    allow

Source: Linux, Documentation/userspace-api/seccomp_filter.rst; the numbers are compared with
libseccomp's by a test. It never installs anything: the worker does that to itself, before it reads
the first program.
"""

import errno
import platform
import struct
from collections.abc import Collection

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN, _MASK = 0x20, 0x15, 0x35, 0x45, 0x06, 0x54
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET = 0, 4
_ARGUMENT_OFFSETS = (16, 24)
"""Of the lower halves of the first two arguments."""
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_REFUSE, _NOT_THERE, _PRETEND = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS, _ERRNO
_AF_UNIX, _SOCK_STREAM, _SOCKET_KINDS = 1, 1, 0xF
_CLONE_THREAD = 0x00010000
_FIRST_UNKNOWN = 463
"""Numbers from here on are newer than this table, or the x32 interface of x86-64."""

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Machine -> its audit code and its column in the tables."""
Numbers = tuple[int, int | None]
_SPECIAL = {"clone": (56, 220), "clone3": (435, 435), "socketpair": (53, 199)}
_ONLY_FOR_ITSELF: dict[str, Numbers] = {
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
}
"""Their first argument names a process; 0 is the caller."""
_REFUSED_COMMANDS: dict[str, tuple[Numbers, int, tuple[int, ...]]] = {
    # Signals of the parent's death, readable memory, a chosen tracer.
    "prctl": ((157, 167), 0, (1, 4, 0x59616D61)),
    # F_SETOWN, F_SETSIG, F_SETOWN_EX: any signal to any process through a file's owner.
    "fcntl": ((72, 25), 1, (8, 10, 15)),
    # FIOSETOWN, SIOCSPGRP: the same; TIOCSCTTY, TIOCSPGRP, TIOCSTI, TIOCLINUX: terminals.
    "ioctl": ((16, 29), 1, (0x8901, 0x8902, 0x540E, 0x5410, 0x5412, 0x541C)),
}
"""Call -> its numbers, the place of the command among the arguments, the commands refused."""
_PRETENDED: dict[str, Numbers] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
}
"""They succeed and do nothing, so that copying and unpacking files work."""
_REFUSED: dict[str, Numbers] = {
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
    "execve": (59, 221),
    "execveat": (322, 281),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_tgsigqueueinfo": (297, 240),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "kcmp": (312, 272),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "personality": (135, 92),
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "fsconfig": (431, 431),
    "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "modify_ldt": (154, None),
    "iopl": (172, None),
    "ioperm": (173, None),
    "vhangup": (153, 58),
}


def build_filter(machine: str | None = None) -> bytes | None:
    """Return the filter program for ``machine`` (this one), None where there is no table.

    New processes, other programs and signals to others are refused: a program stays in its one
    process, so that the limits of that process bound all it does, and its end is the end of
    everything. So is whatever outlives a process: shared memory, queues, semaphores.
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
        _instruction(_AT_LEAST, _FIRST_UNKNOWN, if_false=1),
        _instruction(_RETURN, _NOT_THERE),
        *_return_for({"clone3": _SPECIAL["clone3"]}, column, _NOT_THERE),
        *_return_for(_REFUSED, column, _REFUSE),
        *_return_for(_PRETENDED, column, _PRETEND),
    ]
    program += _if_called(_SPECIAL["clone"][column], _allow_if(0, _ANY_BIT, _CLONE_THREAD))
    program += _if_called(_SPECIAL["socketpair"][column], _allow_pair_of_streams())
    for own in _ONLY_FOR_ITSELF.values():
        program += _if_called(own[column], _allow_if(0, _EQUAL, 0))
    for numbers, place, commands in _REFUSED_COMMANDS.values():
        program += _if_called(numbers[column], _refuse_commands(place, commands))
    return b"".join([*program, _instruction(_RETURN, _ALLOW)])


def _return_for(calls: dict[str, Numbers], column: int, result: int) -> list[bytes]:
    numbers = [each[column] for each in calls.values()]
    return [
        word
        for number in numbers
        if number is not None
        for word in (_instruction(_EQUAL, number, if_false=1), _instruction(_RETURN, result))
    ]


def _if_called(number: int | None, decision: list[bytes]) -> list[bytes]:
    """Run ``decision``, which always returns, for call ``number``; the number stays loaded."""
    if number is None:
        return []
    return [_instruction(_EQUAL, number, if_false=len(decision)), *decision]


def _allow_if(place: int, test: int, value: int) -> list[bytes]:
    return [
        _instruction(_LOAD, _ARGUMENT_OFFSETS[place]),
        _instruction(test, value, if_false=1),
        _instruction(_RETURN, _ALLOW),
        _instruction(_RETURN, _REFUSE),
    ]


def _allow_pair_of_streams() -> list[bytes]:
    """Allow what event loops need; a pair of datagram sockets could write to any other."""
    return [
        _instruction(_LOAD, _ARGUMENT_OFFSETS[0]),
        _instruction(_EQUAL, _AF_UNIX, if_false=4),
        _instruction(_LOAD, _ARGUMENT_OFFSETS[1]),
        _instruction(_MASK, _SOCKET_KINDS),
        _instruction(_EQUAL, _SOCK_STREAM, if_false=1),
        _instruction(_RETURN, _ALLOW),
        _instruction(_RETURN, _REFUSE),
    ]


def _refuse_commands(place: int, commands: Collection[int]) -> list[bytes]:
    tests = [
        word
        for command in commands
        for word in (_instruction(_EQUAL, command, if_false=1), _instruction(_RETURN, _REFUSE))
    ]
    load = _instruction(_LOAD, _ARGUMENT_OFFSETS[place])
    return [load, *tests, _instruction(_RETURN, _ALLOW)]


def _instruction(code: int, value: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
