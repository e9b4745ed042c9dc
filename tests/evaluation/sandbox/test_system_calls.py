import ctypes
import ctypes.util
import errno
import struct

import pytest

from longrun.evaluation.sandbox import system_calls
from longrun.evaluation.sandbox.system_calls import build_filter

X86, ARM = 0xC000003E, 0xC00000B7
ALLOW, PRETEND = 0x7FFF0000, 0x00050000


def decide(program, architecture, number, first=0, second=0):
    """Interpret the six instructions that the filter uses."""
    data = {0: number, 4: architecture, 16: first, 24: second}
    position, value = 0, 0
    while True:
        code, if_true, if_false, operand = struct.unpack_from("=HBBI", program, 8 * position)
        position += 1
        if code == 0x20:
            value = data[operand]
        elif code == 0x54:
            value &= operand
        elif code == 0x06:
            return operand
        else:
            holds = {0x15: value == operand, 0x35: value >= operand, 0x45: value & operand}[code]
            position += if_true if holds else if_false


def refused(number):
    return 0x00050000 | number


@pytest.mark.parametrize(
    ("machine", "architecture", "calls"),
    [
        ("x86_64", X86, {"read": 0, "ptrace": 101, "tgkill": 234, "clone": 56, "pair": 53}),
        ("aarch64", ARM, {"read": 63, "ptrace": 117, "tgkill": 131, "clone": 220, "pair": 199}),
    ],
)
def test_the_program_decides_as_its_docstring_says(machine, architecture, calls):
    program = build_filter(machine)
    assert len(program) % 8 == 0
    assert decide(program, architecture, calls["read"]) == ALLOW
    assert decide(program, architecture, calls["ptrace"]) == refused(errno.EPERM)
    assert decide(program, architecture, calls["tgkill"]) == refused(errno.EPERM)
    assert decide(program, architecture, 435) == refused(errno.ENOSYS)
    assert decide(program, architecture, calls["pair"], 1, 1 | 0o2000000) == ALLOW
    assert decide(program, architecture, calls["pair"], 1, 2) == refused(errno.EPERM)
    assert decide(program, architecture, calls["pair"], 2, 1) == refused(errno.EPERM)
    assert decide(program, architecture, calls["clone"], 0x10000) == ALLOW
    assert decide(program, architecture, calls["clone"], 17) == refused(errno.EPERM)


def test_no_way_to_make_a_process_is_left():
    program = build_filter("x86_64")
    for number in (57, 58, 59, 322):  # fork, vfork, execve, execveat
        assert decide(program, X86, number) == refused(errno.EPERM)
    assert decide(program, X86, 56, 0x4111) == refused(errno.EPERM), "vfork's clone"


def test_a_process_sets_limits_and_commands_for_itself_only():
    program = build_filter("x86_64")
    assert decide(program, X86, 302, 0) == ALLOW
    assert decide(program, X86, 302, 1) == refused(errno.EPERM)
    assert decide(program, X86, 157, 1) == refused(errno.EPERM), "the parent's death is heard"
    assert decide(program, X86, 157, 15) == ALLOW, "a thread may be named"
    assert decide(program, X86, 72, 5, 8) == refused(errno.EPERM)
    assert decide(program, X86, 72, 8, 3) == ALLOW, "descriptor 8 is no command"
    assert decide(program, X86, 16, 0, 0x5412) == refused(errno.EPERM)
    assert decide(program, X86, 90) == PRETEND


def test_calls_of_another_architecture_are_refused_and_newer_ones_are_not_there():
    program = build_filter("x86_64")
    assert decide(program, 0x40000003, 0) == refused(errno.EPERM)
    for number in (463, 500, 0x40000000, 0xFFFFFFFF):
        assert decide(program, X86, number) == refused(errno.ENOSYS)


def test_an_unknown_machine_has_no_filter():
    assert build_filter("riscv64") is None


@pytest.mark.parametrize(("column", "architecture"), [(0, X86), (1, ARM)])
def test_the_numbers_are_those_of_libseccomp(column, architecture):
    found = ctypes.util.find_library("seccomp")
    if found is None:
        pytest.skip("libseccomp is not installed: its table of numbers cannot be compared")
    resolve = ctypes.CDLL(found).seccomp_syscall_resolve_name_arch
    resolve.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    tables = [system_calls._SPECIAL, system_calls._ONLY_FOR_ITSELF, system_calls._PRETENDED]
    tables += [system_calls._REFUSED]
    tables += [{name: entry[0] for name, entry in system_calls._REFUSED_COMMANDS.items()}]
    for table in tables:
        for name, numbers in table.items():
            number = resolve(architecture, name.encode())
            unknown = number == -1  # a name that is newer than the library
            assert unknown or numbers[column] == (number if number >= 0 else None), name
