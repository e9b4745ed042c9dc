r"""Runs inside the sandbox: executes blocks of Python that share one namespace.

Started as a script by the plain interpreter with one argument, a JSON object of limits; imports
the standard library only. It speaks frames (four bytes of length, then JSON) over what were its
standard input and output, and gives up every privilege before it reads the first block.

    request  {"code": "x = 6\nx * 7", "token": "..."}
    reply    {"token": "...", "status": "completed", "stdout": "42\n", "stderr": ""}

A block behaves like a notebook cell: the value of a last expression is shown. It never trusts that
anything of Python still works after a block: whatever breaks here ends the process, and the parent
notices.
"""

import ast
import ctypes
import importlib.util
import io
import json
import linecache
import os
import resource
import signal
import struct
import sys
import textwrap
import traceback
import types
import warnings
from typing import Any

_SET_SECCOMP, _FILTER_MODE, _SET_NO_NEW_PRIVILEGES, _SET_DUMPABLE = 22, 2, 38, 4
_SET_PARENT_DEATH_SIGNAL = 1
_REMOUNT = 0x20 | 0x2 | 0x4  # MS_REMOUNT; no setuid programs, no devices
_CAPABILITIES_VERSION = 0x20080522
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_WRITE_FILE = 1 << 1
_CHANGES = _WRITE_FILE | sum(1 << bit for bit in range(4, 13))
"""Landlock's rights to write, remove and make files of every kind (its first version)."""
_LATER_CHANGES = {2: 1 << 13, 3: 1 << 14}
"""Version of Landlock -> the right that it added: to move between folders, to truncate."""
_STACK_BYTES = 8 << 20
_OPEN_FILES = 64
CUT = "<output cut>"
LIBRARIES = sorted((path for path in sys.path if path), key=len, reverse=True)
"""Folders of modules, the longest first."""


class TimeLimit(BaseException):
    """Raised inside a block that runs longer than it may; not an ``Exception``, so as to pass."""


class CappedBytes(io.RawIOBase):
    """Takes the bytes that go around a text file; those that are not UTF-8 become marks."""

    def __init__(self, text: "CappedText") -> None:
        self._text = text

    def writable(self) -> bool:
        """Say that bytes may be written here."""
        return True

    def write(self, data: Any) -> int:
        """Hand on what ``data`` says, the pieces of one write together."""
        held = bytes(data)
        self._text.write(held.decode("utf-8", "replace"))
        return len(held)


class CappedText(io.TextIOBase):
    """A text file that keeps its first characters and forgets the rest."""

    def __init__(self, most: int) -> None:
        self.buffer = CappedBytes(self)
        self._left = most
        self._parts: list[str] = []
        self._cut = False

    def writable(self) -> bool:
        """Say that ``print`` may write here."""
        return True

    def write(self, text: str) -> int:
        """Keep what still fits of ``text``."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        kept = text[: self._left]
        self._parts.append(kept)
        self._left -= len(kept)
        self._cut = self._cut or len(kept) < len(text)
        return len(text)

    def text(self) -> str:
        """Return what was kept, with a mark where the rest is missing."""
        return "".join(self._parts) + (CUT if self._cut else "")


def limit_self(limits: dict[str, Any]) -> dict[str, bool]:
    """Give up privileges for good; return which of the kernel's means are in force."""
    for kind, bound in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_STACK, _STACK_BYTES),
    ):
        resource.setrlimit(kind, (bound, bound))
    libc = ctypes.CDLL(None, use_errno=True)
    if limits["scratch_options"]:
        options = limits["scratch_options"].encode()
        check(libc.mount(b"tmpfs", b"/scratch", b"tmpfs", _REMOUNT, options), "bounding files")
    if limits["uid"] is not None:
        os.setgroups([])
        os.setresgid(limits["uid"], limits["uid"], limits["uid"])
        os.setresuid(limits["uid"], limits["uid"], limits["uid"])
    resource.setrlimit(resource.RLIMIT_NPROC, (limits["processes"], limits["processes"]))
    header = struct.pack("=II", _CAPABILITIES_VERSION, 0)
    check(libc.capset(header, bytes(24)), "giving up capabilities")
    libc.prctl(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
    libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0)
    check(libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "ruling out new privileges")
    confined = limits["confine"] and confine_writing(libc)
    return {"filtered": install_filter(libc, bytes.fromhex(limits["filter"])), "confined": confined}


def check(result: int, what: str) -> None:
    """Raise what the C library says when a call failed."""
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def confine_writing(libc: Any) -> bool:
    """Let only this folder be changed, and no other process be looked into; False: no Landlock.

    Source: Linux, Documentation/userspace-api/landlock.rst.
    """
    version = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    rights = _CHANGES | sum(right for since, right in _LATER_CHANGES.items() if since <= version)
    rules = libc.syscall(_CREATE_RULESET, struct.pack("=Q", rights), 8, 0)
    check(rules, "making rules")
    for path, allowed in ((".", rights), (os.devnull, _WRITE_FILE)):
        beneath = os.open(path, os.O_PATH)
        rule = struct.pack("=Qi", allowed, beneath)
        check(libc.syscall(_ADD_RULE, rules, 1, rule, 0), "adding a rule")
        os.close(beneath)
    check(libc.syscall(_RESTRICT_SELF, rules, 0), "obeying the rules")
    os.close(rules)
    return True


def install_filter(libc: Any, program: bytes) -> bool:
    """Install a seccomp program; False when there is none or the kernel knows no filters."""
    if not program:
        return False
    code = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(
        struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    )
    return bool(libc.prctl(_SET_SECCOMP, _FILTER_MODE, header, 0, 0) == 0)


def run_block(
    code: str, namespace: dict[str, Any], most_chars: int, seconds: float
) -> dict[str, str]:
    """Execute one block and return its status and what it printed."""
    printed, complaints = CappedText(most_chars), CappedText(most_chars)
    status = "completed"
    kept = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = printed, complaints
    signal.signal(signal.SIGALRM, stop_block)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        execute(code, namespace, printed)
    except TimeLimit:
        status = "timeout"
    except BaseException as error:  # noqa: BLE001  (SystemExit too must not end the session)
        status = "error"
        complaints.write(describe(error, most_chars))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout, sys.stderr = kept
    return {"status": status, "stdout": printed.text(), "stderr": complaints.text()}


def execute(code: str, namespace: dict[str, Any], printed: CappedText) -> None:
    """Execute statements; show the value of a last expression as a notebook does."""
    if code[:1] in (" ", "\t"):
        code = textwrap.dedent(code)
    name = remember_lines(code)
    # Not by ast.parse, which would stand in the error of a block that is no Python.
    tree: Any = compile(code, name, "exec", flags=ast.PyCF_ONLY_AST, dont_inherit=True)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), namespace)
    if isinstance(last, ast.Expr):
        expression = ast.Expression(last.value)
        value = eval(compile(expression, name, "eval"), namespace)
        if value is not None:
            printed.write(repr(value) + "\n")


def remember_lines(code: str) -> str:
    """Return the name of a block, under which errors find its lines: ``<code>``, ``<code 2>``."""
    blocks = sum(name.startswith("<code") for name in linecache.cache)
    name = f"<code {blocks + 1}>" if blocks else "<code>"
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    return name


def stop_block(number: int, frame: types.FrameType | None) -> None:
    """Interrupt the block at its time limit."""
    raise TimeLimit


def describe(error: BaseException, most_chars: int) -> str:
    """Return the traceback of the code; of a long one the end, which names the error."""
    try:
        told = traceback.TracebackException.from_exception(error, limit=-8)
        strip_paths(told, set())
        text = "".join(told.format())
        return text if len(text) <= most_chars else CUT + text[len(CUT) - most_chars :]
    except BaseException:  # noqa: BLE001  (an exception whose text raises)
        return type(error).__name__ + "\n"


def strip_paths(told: traceback.TracebackException | None, seen: set[int]) -> None:
    """Leave this file out, and the folders of this machine before the names of libraries."""
    if told is None or id(told) in seen:
        return
    seen.add(id(told))
    frames = [frame for frame in told.stack if frame.filename != __file__]
    for frame in frames:
        frame.filename = strip_path(frame.filename)
    told.stack[:] = frames[-4:]
    if getattr(told, "filename", None):
        told.filename = strip_path(str(told.filename))
    for other in (told.__cause__, told.__context__, *(getattr(told, "exceptions", None) or ())):
        strip_paths(other, seen)


def strip_path(path: str) -> str:
    """Return ``numpy/linalg/_linalg.py`` for such a file, wherever its library lies."""
    for folder in LIBRARIES:
        if path.startswith(folder + os.sep):
            return path[len(folder) + 1 :]
    return os.path.basename(path) if os.path.isabs(path) else path


def read_frame(source: io.FileIO) -> bytes:
    """Read one frame; the end of the requests is the end of this process."""
    return read_exactly(source, struct.unpack(">I", read_exactly(source, 4))[0])


def read_exactly(source: io.FileIO, count: int) -> bytes:
    """Read ``count`` bytes."""
    read = b""
    while len(read) < count:
        chunk = source.read(count - len(read))
        if not chunk:
            os._exit(0)
        read += chunk
    return read


def write_frame(sink: io.FileIO, message: dict[str, Any]) -> None:
    """Write one frame, in as many writes as the pipe takes."""
    body = json.dumps(message).encode()
    left = memoryview(struct.pack(">I", len(body)) + body)
    while left:
        left = left[sink.write(left) :]


def prepare_python() -> None:
    """Let integers of any size print, and warnings name no folder of this machine."""
    sys.set_int_max_str_digits(0)
    plain = warnings.formatwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        return plain(message, category, strip_path(filename), lineno, line)

    warnings.formatwarning = show


def main() -> None:
    """Serve blocks until the requests end."""
    limits = json.loads(sys.argv[1])
    prepare_python()
    missing = [name for name in limits["packages"] if importlib.util.find_spec(name) is None]
    source, sink = io.FileIO(os.dup(0), "r"), io.FileIO(os.dup(1), "w")
    means = limit_self(limits)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    write_frame(sink, {"ready": True, "missing": missing, **means})
    # A module of their own, so that blocks do not meet the names of this file.
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    while True:
        request = json.loads(read_frame(source))
        reply = run_block(
            request["code"], module.__dict__, limits["output_chars"], limits["timeout_seconds"]
        )
        reply["token"] = request["token"]
        write_frame(sink, reply)


if __name__ == "__main__":
    main()
