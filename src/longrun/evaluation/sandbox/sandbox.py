r"""Run code that a model wrote: one shut-in Python process per solution, state kept between blocks.

    with Sandbox(SandboxSettings()) as sandbox:
        session = sandbox.open_session()
        session.run("x = 6").text         # ''
        session.run("x * 7").text         # '42\n'

Whatever a block does, ``run`` returns within the time limit plus a grace period and the next block
runs: a block that takes too long is interrupted from inside, and when that does not help its
process is killed with everything it started. A process that was lost is replaced by an empty one,
and the text that the model sees says so. Every reply is checked: a block can write to the same
pipe. Earlier blocks are never run again.
"""

import logging
import re
import secrets
import shutil
import sys
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from longrun.config.evaluation import SandboxSettings
from longrun.errors import ResourceError
from longrun.evaluation.sandbox.framed_process import WorkerError, WorkerProcess, WorkerStalledError
from longrun.evaluation.sandbox.isolation import plan_launch
from longrun.evaluation.sandbox.sandbox_worker import CUT
from longrun.evaluation.sandbox.scratch import Scratch, remove_tree
from longrun.formats.closes import Closes
from longrun.formats.processes import available_cores

_START_SECONDS = 30.0
_GRACE_SECONDS = 1.0
"""A block interrupted from inside gets this long to give in before its process is killed."""
_WARM_WORKERS = 2
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_LOST = "The Python process was ended; variables of earlier blocks are lost.\n"
Status = Literal["completed", "error", "timeout", "lost"]
_STATUSES: dict[str, Status] = {
    "completed": "completed",
    "error": "error",
    "timeout": "timeout",
}
"""What a worker may say of itself; that it was lost is the parent's word."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Execution:
    """How one block ended; ``text`` is clean Unicode for the model to read."""

    status: Status
    text: str

    @property
    def failed(self) -> bool:
        """Say whether the block did not run to its end."""
        return self.status != "completed"


class Sandbox(Closes):
    """Starts workers, a few ahead of need, and ends them all when the block ends."""

    def __init__(self, settings: SandboxSettings) -> None:
        """Start a worker and wait for it, so that a machine that cannot do it is known at once.

        Raises:
            ResourceError: bubblewrap is missing or cannot make namespaces here.
        """
        self.settings = settings
        self._bubblewrap = _find_bubblewrap(settings)
        self._scratch = None if self._bubblewrap else Scratch()
        self._closed = False
        self._warm: deque[_Worker] = deque()
        self._living: set[_Worker] = set()
        self._lock = Lock()
        # As many at a time as there are cores: more would only miss their time limits. The threads
        # live as long as the sandbox, because a worker dies with the thread that started it.
        self._threads = ThreadPoolExecutor(available_cores())
        try:
            first = self._start()
            self._check_means(self._ready(first))
        except ResourceError:
            self.close()
            raise
        self._warm.append(first)

    def open_session(self) -> "Session":
        """Return a session; its process is taken when the first block runs."""
        return Session(self)

    def submit(self, session: "Session", code: str) -> Future["Execution"]:
        """Run a block of ``session`` as soon as a core is free, beside those of others."""
        return self._threads.submit(session.run, code)

    def close(self) -> None:
        """End every process, waiting or working; a block that runs is lost."""
        with self._lock:
            self._closed = True
            self._warm.clear()
            living = list(self._living)
        for worker in living:
            worker.process.stop()  # whoever waits for a block of it learns that it has ended
        self._threads.shutdown(cancel_futures=True)
        for worker in living:
            self.end_worker(worker)
        if self._scratch is not None:
            self._scratch.close()

    def end_worker(self, worker: "_Worker") -> None:
        """End the process of ``worker`` and everything it started."""
        with self._lock:
            self._living.discard(worker)
        worker.end()

    def take_worker(self) -> "_Worker":
        """Return a worker that is ready, and start others for those who come next.

        Raises:
            ResourceError: it does not start.
            WorkerError: the sandbox is closed.
        """
        with self._lock:
            worker = self._warm.popleft() if self._warm else self._start()
            while len(self._warm) < _WARM_WORKERS:
                self._warm.append(self._start())
        self._ready(worker)
        return worker

    def _check_means(self, hello: dict[str, Any]) -> None:
        """Refuse bubblewrap without the filter, which it relies on, and packages that are missing.

        What else is missing is said.
        """
        if hello["missing"]:
            raise ResourceError(
                f"sandbox.packages: {', '.join(hello['missing'])} cannot be imported by"
                f" {sys.executable}; pip install them"
                " or leave them out for a model that does not use them"
            )
        if not hello["filtered"] and self._bubblewrap:
            why = "this kernel or processor has no system-call filter"
            raise ResourceError(_cannot_start(self.settings, why))
        if not hello["filtered"]:
            log.warning("sandbox: this kernel or processor has no system-call filter")
        if not hello["confined"] and not self._bubblewrap:
            log.warning("sandbox: this kernel has no Landlock; code can change your files too")

    def _ready(self, worker: "_Worker") -> dict[str, Any]:
        try:
            return worker.wait_until_ready()
        except WorkerError as error:
            said = worker.process.last_words() or str(error)
            self.end_worker(worker)
            raise ResourceError(_cannot_start(self.settings, said)) from None

    def _start(self) -> "_Worker":
        if self._closed:
            raise WorkerError("the sandbox is closed")
        folder = self._scratch.make() if self._scratch is not None else None
        worker = _Worker(self.settings, self._bubblewrap, folder)
        self._living.add(worker)
        return worker


class Session:
    """The blocks of one solution, in order."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._worker: _Worker | None = None

    def run(self, code: str) -> Execution:
        """Execute one block with the variables of the earlier ones; never raises for the code."""
        limit = self._sandbox.settings.timeout_seconds
        try:
            if self._worker is None:
                self._worker = self._sandbox.take_worker()
            reply = self._worker.ask(code, limit + _GRACE_SECONDS)
        except WorkerStalledError:
            self.close()
            return Execution("timeout", _timeout_text(limit) + _LOST)
        except WorkerError:
            self.close()
            return Execution("lost", _LOST)
        text = reply["stdout"] + reply["stderr"]
        if reply["status"] == "timeout":
            text += _timeout_text(limit)
        return Execution(_STATUSES[reply["status"]], _clean(text))

    def close(self) -> None:
        """End the process of this session and everything it started."""
        if self._worker is not None:
            self._sandbox.end_worker(self._worker)
            self._worker = None


class _Worker:
    """One sandboxed process: started on creation, ready after its first frame."""

    def __init__(
        self, settings: SandboxSettings, bubblewrap: str | None, scratch: str | None
    ) -> None:
        launch = plan_launch(settings, bubblewrap)
        self._most_chars = settings.output_chars + len(CUT)
        self._scratch = scratch
        self._hello: dict[str, Any] | None = None
        self.process = WorkerProcess(launch.command, launch.environment, scratch)

    def wait_until_ready(self) -> dict[str, Any]:
        """Return its greeting, sent before any block was read; raises ``WorkerError``."""
        if self._hello is None:
            hello = self.process.receive(_START_SECONDS, most_bytes=2000)
            if not isinstance(hello, dict) or hello.get("ready") is not True:
                raise WorkerError("did not greet")
            self._hello = hello
        return self._hello

    def ask(self, code: str, seconds: float) -> dict[str, str]:
        """Run ``code`` and return the checked reply; raises ``WorkerError``."""
        token = secrets.token_hex(8)
        self.process.send({"code": code, "token": token}, seconds)
        # One character is at most 12 bytes of ASCII-only JSON.
        reply = self.process.receive(seconds, most_bytes=24 * self._most_chars + 200)
        return self._checked(reply, token)

    def _checked(self, reply: Any, token: str) -> dict[str, str]:
        if not isinstance(reply, dict) or set(reply) != {"token", "status", "stdout", "stderr"}:
            raise WorkerError("sent a reply of another form")
        if not all(isinstance(value, str) for value in reply.values()):
            raise WorkerError("sent a reply of other types")
        if reply["token"] != token or reply["status"] not in _STATUSES:
            raise WorkerError("sent a forged reply")
        for name in ("stdout", "stderr"):
            reply[name] = reply[name][: self._most_chars]
        return reply

    def end(self) -> None:
        self.process.kill()
        if self._scratch is not None:
            remove_tree(Path(self._scratch))


def _find_bubblewrap(settings: SandboxSettings) -> str | None:
    if settings.isolation == "process":
        log.warning(
            "sandbox.isolation=process: code of the model can read every file that you can; use it"
            " only for code you trust"
        )
        return None
    found = shutil.which("bwrap")
    if found is None:
        raise ResourceError(
            "sandbox.isolation=bubblewrap: the program bwrap is missing; install the package"
            " bubblewrap (0.8 or later), or set sandbox.isolation=process for code you trust"
        )
    return found


def _cannot_start(settings: SandboxSettings, said: str) -> str:
    remedy = f"check that {sys.executable} starts"
    if settings.isolation == "bubblewrap":
        remedy = (
            "allow user namespaces and bubblewrap 0.8 or later, not installed setuid,"
            " or set sandbox.isolation=process for code you trust"
        )
    return f"sandbox.isolation={settings.isolation}: no worker starts here ({said}); {remedy}"


def _timeout_text(limit: float) -> str:
    return f"TimeoutError: the code ran longer than {limit:g} seconds\n"


def _clean(text: str) -> str:
    """Drop control signs and replace lone surrogates, which no tokenizer takes."""
    return _CONTROL.sub("", text).encode("utf-8", "replace").decode("utf-8")
