import errno
import struct

import pytest

from longrun.evaluation.sandbox.system_calls import build_filter

X86, ARM = 0xC000003E, 0xC00000B7
ALLOW = 0x7FFF0000


def decide(program, architecture, number, argument=0):
    """Interpret the five instructions that the filter uses."""
    data = {0: number, 4: architecture, 16: argument}
    position, value = 0, 0
    while True:
        code, if_true, if_false, operand = struct.unpack_from("=HBBI", program, 8 * position)
        position += 1
        if code == 0x20:
            value = data[operand]
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
        ("x86_64", X86, {"read": 0, "ptrace": 101, "kill": 62, "socket": 41, "clone": 56}),
        ("aarch64", ARM, {"read": 63, "ptrace": 117, "kill": 129, "socket": 198, "clone": 220}),
    ],
)
def test_the_program_decides_as_its_docstring_says(machine, architecture, calls):
    program = build_filter(machine)
    assert len(program) % 8 == 0
    assert decide(program, architecture, calls["read"]) == ALLOW
    assert decide(program, architecture, calls["ptrace"]) == refused(errno.EPERM)
    assert decide(program, architecture, calls["kill"]) == refused(errno.EPERM)
    assert decide(program, architecture, 435) == refused(errno.ENOSYS)
    assert decide(program, architecture, calls["socket"], argument=1) == ALLOW
    assert decide(program, architecture, calls["socket"], argument=2) == refused(errno.EPERM)
    assert decide(program, architecture, calls["clone"], argument=0x10000) == ALLOW
    assert decide(program, architecture, calls["clone"], argument=17) == refused(errno.EPERM)


def test_no_way_to_make_a_process_is_left():
    program = build_filter("x86_64")
    for number in (57, 58):  # fork, vfork
        assert decide(program, X86, number) == refused(errno.EPERM)
    assert decide(program, X86, 56, argument=0x4111) == refused(errno.EPERM), "vfork's clone"


def test_calls_of_another_architecture_are_refused():
    program = build_filter("x86_64")
    assert decide(program, 0x40000003, 0) == refused(errno.EPERM)
    assert decide(program, X86, 0x40000000) == refused(errno.EPERM)


def test_an_unknown_machine_has_no_filter():
    assert build_filter("riscv64") is None
