"""Start the worker processes of a training on this node, pass signals on, say how they ended.

Workers are plain processes with torchrun's environment; one worker is started in the same way as
many. They die with this process, and when one of them fails the others are ended by their own
process ids, on the other nodes by their own starters (``nodes``). This module never imports torch.
"""

import json
import os
import signal
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
from longrun.errors import EXIT_STOPPED
from longrun.formats.processes import STOP_SIGNALS, available_cores
from longrun.training.channel import interface_towards
from longrun.training.nodes import DONE, NodeAddress, Outcome, Peers, as_died

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
    """The processes of this node, and the signal that was asked to be passed on."""

    processes: list[subprocess.Popen[bytes]]
    reports: Path
    meeting: "Meeting"
    stop_signal: signal.Signals | None = None

    def report(self, local: int) -> dict[str, Any]:
        """Return what the worker ``local`` of this node left for its starter; empty: nothing."""
        path = self.reports / f"rank-{self.meeting.first_rank + local}.json"
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


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where the workers of all nodes meet, and which of them this node starts."""

    location: NodeAddress
    num_processes: int
    """Workers of each node."""
    port: int

    @property
    def first_rank(self) -> int:
        """Rank of this node's first worker."""
        return self.location.node * self.num_processes

    @property
    def num_ranks(self) -> int:
        """Workers of all nodes."""
        return self.location.num_nodes * self.num_processes


def run_workers(verb: str, config_path: Path, num_processes: int, peers: Peers) -> Outcome:
    """Run this node's workers of ``verb`` to their end on the settings in ``config_path``.

    SIGTERM, SIGUSR1 and SIGINT are passed on, if this is the main thread. Returns how the workers
    of all nodes ended (node 0), or those of this one.

    Raises:
        LaunchError: another node did not come to the meeting.
        AlreadyOverError: node 0 says that there is nothing to train.
    """
    with tempfile.TemporaryDirectory(prefix="longrun-") as reports:
        meeting = Meeting(peers.location, num_processes, peers.begin())
        workers = _Workers([], Path(reports), meeting)
        try:
            with _signals_passed_on(workers):
                for local in range(num_processes):
                    workers.processes.append(_start(verb, config_path, workers, local))
                _wait(workers, peers)
                own = _outcome(workers)
                workers.end()
                return peers.settle(own)
        finally:
            workers.end()


def worker_environment(local: int, meeting: Meeting) -> dict[str, str]:
    """Return the environment of one worker: this one's, this code, and torchrun's variables."""
    kept = {name: value for name, value in os.environ.items() if name not in TORCHRUN_VARIABLES}
    code = str(Path(longrun.__file__).parents[1])
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [code, os.environ.get("PYTHONPATH")]))
    count, address = meeting.num_processes, meeting.location.address
    # Nodes that meet at loopback are processes of one machine and share its cores. More threads
    # than cores wait for each other in turns: 0.5 steps/s instead of 30 on a busy machine.
    sharing = meeting.num_ranks if address.startswith("127.") else count
    kept.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // sharing)))
    if meeting.num_ranks == 1:
        return kept
    torchrun = (
        meeting.first_rank + local, meeting.num_ranks, local, count, address, meeting.port
    )  # fmt: skip
    # The name of a machine need not resolve to an address at which the others can reach it.
    interface = interface_towards(address)
    if interface is not None:
        kept.setdefault("GLOO_SOCKET_IFNAME", interface)
    return kept | dict(zip(TORCHRUN_VARIABLES, map(str, torchrun), strict=True))


def _start(verb: str, config_path: Path, workers: _Workers, local: int) -> subprocess.Popen[bytes]:
    arguments = [verb, str(config_path), str(workers.reports), str(os.getpid())]
    return subprocess.Popen(
        [sys.executable, "-m", "longrun.training.worker", *arguments],
        env=worker_environment(local, workers.meeting),
        stdin=subprocess.DEVNULL,
    )


def _wait(workers: _Workers, peers: Peers) -> None:
    """Wait until all workers have ended, one reported an error, or one died some time ago.

    A failure on another node counts like the death of a worker here.
    """
    deadline = None
    while any(process.poll() is None for process in workers.processes):
        if any("kind" in workers.report(local) for local in range(len(workers.processes))):
            return
        failed = any(process.poll() not in (None, 0, EXIT_STOPPED) for process in workers.processes)
        if (failed or peers.failed()) and deadline is None:
            deadline = time.monotonic() + _GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            return
        time.sleep(_POLL_SECONDS)


def _outcome(workers: _Workers) -> Outcome:
    """Say how the workers of this node ended."""
    codes = [process.poll() for process in workers.processes]
    if all(code == 0 for code in codes):
        return DONE
    reports = [workers.report(local) for local in range(len(codes))]
    raised = next((report for report in reports if "kind" in report), None)
    if raised is not None:
        return {"severity": 4, **raised}
    asked = workers.stop_signal
    if EXIT_STOPPED in codes:
        return _stopped(max(report.get("step", 0) for report in reports), asked)
    if asked is not None and all(code in (0, -asked) for code in codes):
        return _stopped(0, asked)
    failed = [local for local, code in enumerate(codes) if code not in (None, 0)]
    if not failed:
        return {"severity": 2, **as_died("the workers of this node were ended")}
    # The others fail on the lost connection; the one that a signal ended was the first.
    local = min(failed, key=lambda local: workers.processes[local].returncode > 0)
    return _died(workers, local)


def _stopped(step: int, asked: signal.Signals | None) -> Outcome:
    by = f" by {asked.name}" if asked is not None else ""
    saved = f"saved at step {step}" if step else "no step was finished"
    message = f"training was interrupted{by}: {saved}; run the same command to continue"
    return {"severity": 1, "kind": "StoppedError", "message": message}


def _died(workers: _Workers, local: int) -> Outcome:
    process, meeting = workers.processes[local], workers.meeting
    code = process.returncode
    how = f"exited with code {code}, its own message is above"
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (is the memory of the machine used up?)" if code == -signal.SIGKILL else ""
        how = f"was killed by {name}{hint}"
    node = f" on node {meeting.location.node}" if meeting.location.num_nodes > 1 else ""
    message = (
        f"worker {meeting.first_rank + local} of {meeting.num_ranks}{node} (process {process.pid})"
        f" {how}; the other workers were ended. Run the same command to continue from the last"
        " checkpoint"
    )
    return {"severity": 3 if code < 0 else 2, **as_died(message)}


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
