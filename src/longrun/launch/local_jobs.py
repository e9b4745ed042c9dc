"""Run jobs on this machine: as many at a time as its cores and GPUs allow.

Every job is the ``job.sh`` that a cluster would run, in a session of its own; what it prints goes
to its log, its progress is read from a file. Ctrl-C asks everything that runs to stop (it saves
what it can), a second Ctrl-C ends it; the same command continues. When a job fails, those that
wait for it are cancelled and the others go on.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from longrun.errors import EXIT_STOPPED, LaunchError
from longrun.formats.stages.atomic import write_text
from longrun.launch.jobs import (
    EXIT_CANCELLED,
    Job,
    is_running_here,
    last_line,
    read_exit,
)
from longrun.launch.orphans import STOP_SECONDS, note_process

POLL_SECONDS = 0.1
Outcome = str
"""``done``, ``up to date``, ``failed``, ``cancelled`` or ``interrupted``."""


@dataclass(frozen=True, slots=True)
class Watcher:
    """Called while jobs run, with the name of the job; the command line shows, a test records."""

    begins: Callable[[str], None]
    progresses: Callable[[str, dict[str, object]], None]
    prints: Callable[[str, str], None]
    ends: Callable[[str, Outcome], None]


def _nothing(*_: object) -> None:
    """Show nothing."""


def _tell(_: str, line: str) -> None:
    """Pass on what a job prints; standard output belongs to the program that called."""
    print(line, file=sys.stderr, flush=True)


QUIET = Watcher(_nothing, _nothing, _nothing, _nothing)
TELLING = Watcher(_nothing, _nothing, _tell, _nothing)
"""For functions that return when the work is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalJob:
    """A job that waits for its turn on this machine."""

    job: Job
    waits_for: frozenset[str]
    """Jobs of the same run, by name."""
    cores: int
    num_gpus: int
    prepare: Callable[[bool], bool]
    """Called when the job's turn has come, with whether a job before it ran again: writes what the
    job needs and says whether it has anything to do."""


@dataclass(slots=True)
class Machine:
    """What is free of this machine."""

    cores: int
    gpus: list[str]

    def fits(self, wanted: LocalJob) -> bool:
        """Whether ``wanted`` can start now; a job larger than the machine gets all of it."""
        return wanted.cores <= self.cores and wanted.num_gpus <= len(self.gpus)


@dataclass(slots=True)
class _Running:
    wanted: LocalJob
    process: "subprocess.Popen[bytes]"
    task: int
    gpus: list[str]
    log: Path
    position: int
    progress: str = ""


@dataclass(slots=True)
class LocalRun:
    """One pass over a graph of jobs."""

    waiting: list[LocalJob]
    machine: Machine
    watcher: Watcher
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    running: list[_Running] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    started: dict[str, int] = field(default_factory=dict)
    """Tasks of each array that have been started."""

    def run(self) -> None:
        """Run until nothing is left to do.

        Raises:
            LaunchError: a job failed or was interrupted; the message holds its last line and log.
        """
        try:
            with _ended_like_ctrl_c():
                while self.waiting or self.running:
                    self._start_what_can()
                    self._look_at_running()
                    time.sleep(POLL_SECONDS if self.running else 0)
        except KeyboardInterrupt:
            self._stop()
        finally:
            for entry in self.running:
                end_session(entry.process)
        if self.errors:
            raise LaunchError(self.errors[0])

    def _start_what_can(self) -> None:
        for wanted in list(self.waiting):
            name = wanted.job.name
            before = {self.outcomes.get(other) for other in wanted.waits_for}
            if before & {"failed", "cancelled"}:
                self.waiting.remove(wanted)
                self._cancel(wanted)
            elif None not in before and self.machine.fits(wanted):
                if name not in self.started and not self._has_work(wanted, "done" in before):
                    self.waiting.remove(wanted)
                    self._finish(wanted, "up to date")
                    continue
                self._start(wanted)

    def _has_work(self, wanted: LocalJob, again: bool) -> bool:
        folder = wanted.job.folder
        if is_running_here(folder):
            raise LaunchError(
                f"{wanted.job.name} is still running from before (log: {folder / 'log.txt'}); wait"
                " for it or end its processes"
            )
        return wanted.prepare(again)

    def _start(self, wanted: LocalJob) -> None:
        job = wanted.job
        task = self.started[job.name] = self.started.get(job.name, 0) + 1
        if task == 1:
            self.watcher.begins(job.name)
        if task == (job.num_parts or 1):
            self.waiting.remove(wanted)
        gpus = [self.machine.gpus.pop(0) for _ in range(wanted.num_gpus)]
        self.machine.cores -= wanted.cores
        log = job.folder / (f"parts/{task}/log.txt" if job.num_parts else "log.txt")
        self.running.append(start_job(wanted, task, gpus, log))

    def _look_at_running(self) -> None:
        for entry in list(self.running):
            name = entry.wanted.job.name
            code = entry.process.poll()
            entry.position = _forward(entry, self.watcher, everything=code is not None)
            state = _read(entry.wanted.job.folder / "progress.json")
            if state and state != entry.progress:
                entry.progress = state
                self.watcher.progresses(name, json.loads(state))
            if code is not None:
                self.running.remove(entry)
                end_session(entry.process)
                self.machine.cores += entry.wanted.cores
                self.machine.gpus += entry.gpus
                self._ended(entry, code)

    def _ended(self, entry: _Running, code: int) -> None:
        wanted, job = entry.wanted, entry.wanted.job
        if job.name in self.outcomes:
            return  # another part of the same array has failed
        if code == 0:
            others = [*self.waiting, *(other.wanted for other in self.running)]
            if wanted not in others:
                self._finish(wanted, "done")
            return
        if wanted in self.waiting:
            self.waiting.remove(wanted)
        how = f"failed: {reason_of(entry.log, code)} (log: {entry.log})"
        if code == EXIT_STOPPED:
            how = "interrupted; run the same command to continue"
        self.errors.append(f"{job.name} {how}")
        self._finish(wanted, "failed")

    def _cancel(self, wanted: LocalJob) -> None:
        wanted.job.folder.mkdir(parents=True, exist_ok=True)
        write_text(wanted.job.folder / "exit", f"{EXIT_CANCELLED}\n")
        self._finish(wanted, "cancelled")

    def _finish(self, wanted: LocalJob, outcome: Outcome) -> None:
        if outcome == "up to date" and read_exit(wanted.job.folder) != 0:
            # It was finished otherwise; the jobs after it look for this.
            wanted.job.folder.mkdir(parents=True, exist_ok=True)
            write_text(wanted.job.folder / "exit", "0\n")
        self.outcomes[wanted.job.name] = outcome
        self.watcher.ends(wanted.job.name, outcome)

    def _stop(self) -> None:
        """Ask everything to stop and wait; a second Ctrl-C ends it at once."""
        for entry in self.running:
            entry.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        try:
            for entry in self.running:
                entry.process.wait(max(0.0, deadline - time.monotonic()))
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            pass  # the sessions are ended on the way out
        names = ", ".join(dict.fromkeys(entry.wanted.job.name for entry in self.running))
        raise LaunchError(f"{names} interrupted; run the same command to continue".strip())


def start_job(wanted: LocalJob, task: int, gpus: list[str], log: Path) -> _Running:
    """Start ``job.sh`` in a session of its own; it holds the job's lock until all of it ended."""
    job = wanted.job
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "LONGRUN_TASK": str(task)}
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    with open(log, "ab") as output, open(job.folder / "lock", "a") as lock:
        position = output.tell()
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        process = subprocess.Popen(
            ["bash", str(job.folder / "job.sh")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            pass_fds=[lock.fileno()],
        )
    note_process(log.parent, process.pid)
    return _Running(wanted, process, task, gpus, log, position)


def end_session(process: "subprocess.Popen[bytes]") -> None:
    """End whatever a job left running: its session is its own, so nobody else is hit."""
    if process.poll() is None:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def reason_of(log: Path, code: int) -> str:
    """Say why a job ended with ``code``: the last line it printed, or the signal."""
    number = -code if code < 0 else code - 128
    if code < 0 or number in set(signal.Signals):
        return f"ended by signal {signal.Signals(number).name}"
    return last_line(log).removeprefix("longrun: ") or f"exit code {code}"


def _forward(entry: _Running, watcher: Watcher, *, everything: bool) -> int:
    """Pass on the complete lines of the log after the position; return the new position."""
    with open(entry.log, "rb") as file:
        file.seek(entry.position)
        new = file.read()
    end = len(new) if everything else new.rfind(b"\n") + 1
    for line in new[:end].decode(errors="replace").splitlines():
        watcher.prints(entry.wanted.job.name, line)
    return entry.position + end


@contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """Treat as Ctrl-C what ``longrun cancel``, a closing machine and a closed terminal send."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup asks to outlive the terminal
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
