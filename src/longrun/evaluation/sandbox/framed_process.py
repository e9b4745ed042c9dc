"""A child process that answers framed requests, and can always be killed.

A frame is four bytes of length (big endian) and that many bytes of JSON. Whatever a worker sends
is untrusted: the length is capped before anything is read, every wait has a deadline, and the
reader checks the content. The child leads a session and process group of its own, which is what
``kill`` ends; nobody else's process is ever signalled.
"""

import json
import os
import select
import signal
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_LENGTH = struct.Struct(">I")
_CHUNK = 1 << 16
_COLLECT_SECONDS = 2.0
"""A child that collects its own killed children gets this long to end by itself."""


class WorkerError(Exception):
    """The worker is of no more use: it died or broke the protocol. Its owner must kill it."""


class WorkerStalledError(WorkerError):
    """The worker did not answer (or did not read) before the deadline."""


class WorkerProcess:
    """One child process behind two pipes. ``environment`` replaces the parent's entirely."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], cwd: str | None = None
    ) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            env=dict(environment),
            cwd=cwd,
        )
        self._requests, self._replies, self._errors = (
            _descriptor(stream)
            for stream in (self._process.stdin, self._process.stdout, self._process.stderr)
        )
        for descriptor in (self._requests, self._replies, self._errors):
            os.set_blocking(descriptor, False)

    @property
    def pid(self) -> int:
        """Process id of the child, which is also its process group."""
        return self._process.pid

    def send(self, message: Mapping[str, Any], seconds: float) -> None:
        """Send one frame within ``seconds``; raises ``WorkerError``."""
        body = json.dumps(message).encode()
        left = memoryview(_LENGTH.pack(len(body)) + body)
        deadline = time.monotonic() + seconds
        while left:
            _wait(self._requests, select.POLLOUT, deadline)
            try:
                left = left[os.write(self._requests, left[:_CHUNK]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise WorkerError(f"closed its input ({error.strerror})") from None

    def receive(self, seconds: float, most_bytes: int) -> Any:
        """Return the value of the next frame within ``seconds``.

        Raises:
            WorkerStalledError: it did not arrive in time.
            WorkerError: the process died, the frame is longer than ``most_bytes`` or no JSON.
        """
        deadline = time.monotonic() + seconds
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size, deadline))
        if length > most_bytes:
            raise WorkerError(f"announced a reply of {length} bytes; the bound is {most_bytes}")
        try:
            return json.loads(self._read(length, deadline))
        except (ValueError, RecursionError):
            raise WorkerError("sent a reply that is not JSON") from None

    def last_words(self) -> str:
        """Return the end of what the child wrote to standard error, on one line."""
        try:
            return os.read(self._errors, _CHUNK).decode(errors="replace").strip()[-300:]
        except BlockingIOError:
            return ""

    def kill(self) -> int:
        """End the child as ``stop`` does and close its pipes; return how the child ended."""
        returncode = self.stop()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        return returncode

    def stop(self) -> int:
        """End the child, its children and its process group; who waits for it sees the end.

        Children go first: bubblewrap collects the one that it shut in and then ends by itself, so
        that nothing is left, not even for a moment, when this returns.
        """
        if self._process.poll() is None:
            children = _children(self._process.pid)
            for child in children:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_COLLECT_SECONDS if children else 0)
        if self._process.returncode is None:
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    def _read(self, count: int, deadline: float) -> bytes:
        read = bytearray()
        while len(read) < count:
            _wait(self._replies, select.POLLIN, deadline)
            chunk = os.read(self._replies, min(_CHUNK, count - len(read)))
            if not chunk:
                raise WorkerError("ended")
            read += chunk
        return bytes(read)


def _wait(descriptor: int, event: int, deadline: float) -> None:
    left = max(deadline - time.monotonic(), 0.0)
    poll = select.poll()  # unlike select, it takes descriptors above 1023
    poll.register(descriptor, event)
    if not poll.poll(left * 1000):
        raise WorkerStalledError("gave no answer in time")


def _descriptor(stream: Any) -> int:
    return int(stream.fileno())


def _children(pid: int) -> list[int]:
    try:
        listing = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:  # a kernel without this file: the process group is ended at once
        return []
    return [int(child) for child in listing.split()]
