"""Start the worker processes of a training, pass signals on, and say how they ended.

Workers are plain processes with torchrun's environment; one worker is started in the same way as
many. They die with this process, and when one of them fails the others are ended by their own
process ids. This module never imports torch.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import longrun
from longrun import errors
from longrun.errors import LaunchError, LongrunError
from longrun.formats.processes import available_cores
from longrun.train.worker import EXIT_STOPPED, STOP_SIGNALS

TORCHRUN_VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
_POLL_SECONDS = 0.05
_GRACE_SECONDS = 5.0
"""What a worker gets to report an error of its own after another one died."""


@dataclass(slots=True)
class _Workers:
    """The processes by rank, and the signal that was asked to be passed on."""

    processes: list[subprocess.Popen[bytes]]
    reports: Path
    stop_signal: signal.Signals | None = None

    def report(self, rank: int) -> dict[str, Any]:
        """Return what the worker ``rank`` left for its starter; empty: nothing."""
        path = self.reports / f"rank-{rank}.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def request_stop(self, number: int, frame: FrameType | None = None) -> None:
        """Pass a signal on to every worker that is still alive."""
        self.stop_signal = signal.Signals(number)
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

    def end(self) -> None:
        """Kill every worker that is still alive and wait for it."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
        for process in self.processes:
            process.wait()


def run_workers(config_path: Path, num_processes: int) -> None:
    """Run ``num_processes`` workers to their end on the settings in ``config_path``.

    SIGTERM, SIGUSR1 and SIGINT are passed on, if this is the main thread.

    Raises:
        LongrunError: what a worker raised on purpose, as its own class.
        LaunchError: a stop was requested and the training is saved, or a worker died.
    """
    with tempfile.TemporaryDirectory(prefix="longrun-") as reports:
        workers = _Workers([], Path(reports))
        try:
            with _signals_passed_on(workers):
                port = _free_port()
                for rank in range(num_processes):
                    workers.processes.append(
                        _start(config_path, workers.reports, rank, num_processes, port)
                    )
                _wait(workers)
            _raise_outcome(workers)
        finally:
            workers.end()


def worker_environment(rank: int, num_processes: int, port: int) -> dict[str, str]:
    """Return the environment of one worker: this one's, this code, and torchrun's variables."""
    kept = {name: value for name, value in os.environ.items() if name not in TORCHRUN_VARIABLES}
    code = str(Path(longrun.__file__).parents[1])
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [code, os.environ.get("PYTHONPATH")]))
    kept.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // num_processes)))
    if num_processes == 1:
        return kept
    torchrun = (rank, num_processes, rank, num_processes, "127.0.0.1", port)
    # The workers meet on this machine only; its name need not resolve to an address of its own.
    kept.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    return kept | dict(zip(TORCHRUN_VARIABLES, map(str, torchrun), strict=True))


def _start(
    config_path: Path, reports: Path, rank: int, num_processes: int, port: int
) -> subprocess.Popen[bytes]:
    parent = str(os.getpid())
    arguments = [str(config_path), str(reports), parent]
    return subprocess.Popen(
        [sys.executable, "-m", "longrun.train.worker", *arguments],
        env=worker_environment(rank, num_processes, port),
        stdin=subprocess.DEVNULL,
    )


def _wait(workers: _Workers) -> None:
    """Wait until all workers have ended, one reported an error, or one died some time ago."""
    deadline = None
    while any(process.poll() is None for process in workers.processes):
        if any("kind" in workers.report(rank) for rank in range(len(workers.processes))):
            return
        failed = any(process.poll() not in (None, 0, EXIT_STOPPED) for process in workers.processes)
        if failed and deadline is None:
            deadline = time.monotonic() + _GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            return
        time.sleep(_POLL_SECONDS)


def _raise_outcome(workers: _Workers) -> None:
    codes = [process.poll() for process in workers.processes]
    if all(code == 0 for code in codes):
        return
    for rank in range(len(codes)):
        report = workers.report(rank)
        if "kind" in report:
            raise _as_raised(report)
    asked = workers.stop_signal
    if EXIT_STOPPED in codes:
        step = max(workers.report(rank).get("step", 0) for rank in range(len(codes)))
        raise LaunchError(_stopped(step, asked))
    if asked is not None and all(code in (0, -asked) for code in codes):
        raise LaunchError(_stopped(0, asked))
    failed = [rank for rank, code in enumerate(codes) if code not in (None, 0)]
    # The others fail on the lost connection; the one that a signal ended was the first.
    rank = min(failed, key=lambda rank: workers.processes[rank].returncode > 0)
    raise LaunchError(_died(rank, workers.processes[rank], len(codes)))


def _stopped(step: int, asked: signal.Signals | None) -> str:
    by = f" by {asked.name}" if asked is not None else ""
    saved = f"saved at step {step}" if step else "no step was finished"
    return f"training was interrupted{by}: {saved}; run the same command to continue"


def _died(rank: int, process: subprocess.Popen[bytes], num_processes: int) -> str:
    code = process.returncode
    how = f"exited with code {code}, its own message is above"
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (is the memory of the machine used up?)" if code == -signal.SIGKILL else ""
        how = f"was killed by {name}{hint}"
    return (
        f"worker {rank} of {num_processes} (process {process.pid}) {how}; the other workers were"
        " ended. Run the same command to continue from the last checkpoint"
    )


def _as_raised(report: dict[str, Any]) -> LongrunError:
    """Return the error that a worker raised, as the same class."""
    kind = getattr(errors, report["kind"], LongrunError)
    error = kind(report["message"])
    return error if isinstance(error, LongrunError) else LongrunError(report["message"])


@contextmanager
def _signals_passed_on(workers: _Workers) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, workers.request_stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
