"""Jobs as data: what to run, after which jobs, with which resources, and what became of them.

A job is a folder. ``job.sh`` in it runs under every executor and keeps there what is true:

    job.sh        what runs; `sbatch job.sh` by hand does the same again
    command.sh    what job.sh starts, once on every node
    log.txt       what all attempts printed (a link, when logs belong elsewhere)
    exit          exit code of the newest attempt; 0: done
    attempt       which attempt that is; an older one on a lost node may not write ``exit``
    ids           job ids, one a line, when Slurm runs it
    cancelled     somebody asked for its end
    parts/N/      the same files for each part of an array

A scheduler is asked only where there is no ``exit``, so its memory need not be long.
"""

import fcntl
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from longrun.errors import EXIT_STOPPED
from longrun.formats.stages.run_state import State

EXIT_CANCELLED = 213
"""Not started, because a job that it waits for did not finish."""
LIVE_STATES = ("queued", "running")
CANCELLED_NAME = "cancelled"
"""Says in the folder of a job who asked for its end."""
SETTINGS_NAME = "config.yaml"
"""Settings of a stage in the folder of its job."""
_SLURM_SAYS = re.compile(r"(srun|slurmstepd)(-\S+)?: |\[[-\dT:.]+\] error: \*\*\* ")
_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a job asks for, on each of its nodes."""

    num_nodes: int = 1
    num_gpus: int = 0
    cpus: int | None = None
    """Cores; None: what the cluster gives."""
    partition: str | None = None
    time_limit: int | None = None
    """Seconds; None: the partition's default."""
    sbatch: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job of an experiment."""

    name: str
    folder: Path
    """Absolute; see the module docstring."""
    command: str
    """Shell text, run in ``start_in`` on every node."""
    start_in: Path
    after: tuple[Path, ...] = ()
    """Folders of the jobs that must be done."""
    resources: Resources = Resources()
    resumable: bool = False
    """Started again, the command goes on where it stopped."""
    num_parts: int | None = None
    """Parts of an array; the command finds its own in LONGRUN_PART (from 1) and the number of all
    in LONGRUN_NUM_PARTS."""
    log: Path | None = None
    """Where the log lies, if not in ``folder``."""
    image: str | None = None
    """Container image; None: none."""
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobState:
    """What became of a job, in the words of ``longrun status``, and why."""

    state: State
    reason: str = ""

    @property
    def live(self) -> bool:
        """Whether it waits for its turn or runs."""
        return self.state in LIVE_STATES


def read_ids(folder: Path) -> list[str]:
    """Return the Slurm job ids of the job in ``folder``, oldest first."""
    return _read(folder / "ids").split()


def state_of(folder: Path, in_queue: Mapping[str, JobState]) -> JobState:
    """Say what became of the job in ``folder``; ``in_queue``: job id -> state, of live jobs."""
    code = read_exit(folder)
    if code == 0:
        return JobState("done")
    if is_running_here(folder):
        return JobState("running")
    live = [in_queue[name] for name in read_ids(folder) if name in in_queue]
    if live:
        running = [state for state in live if state.state == "running"]
        return (running or live)[0]
    if code is None and not any((folder / name).exists() for name in ("job.sh", CANCELLED_NAME)):
        return JobState("waiting")
    return _ended(folder, code, in_queue)


def _ended(folder: Path, code: int | None, in_queue: Mapping[str, JobState]) -> JobState:
    """Say how a job ended that is neither done nor live; ``code``: what it left in ``exit``."""
    if (folder / CANCELLED_NAME).exists():
        return JobState("cancelled", _read(folder / CANCELLED_NAME).strip())
    if code == EXIT_CANCELLED:
        return JobState("cancelled", "a job before it did not finish")
    if code is None and (broken := _broken_before(folder, in_queue)):
        return JobState("cancelled", f"{broken} did not finish")
    if code is None or code == EXIT_STOPPED or code > 128:
        return JobState("interrupted", _how_it_stopped(folder, code))
    return JobState("failed", last_line(folder / "log.txt") or f"exit code {code}")


def read_exit(folder: Path) -> int | None:
    """Return the exit code that the newest attempt left; None: it left none."""
    text = _read(folder / "exit").strip()
    return int(text) if text.isdigit() else None


def read_after(folder: Path) -> list[Path]:
    """Return the folders of the jobs that the job in ``folder`` waits for."""
    text = _read(folder / "after.json")
    return [Path(name) for name in json.loads(text)] if text else []


def is_running_here(folder: Path) -> bool:
    """Say whether a process of this machine's local executor holds the job."""
    try:
        with open(folder / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def last_line(path: Path) -> str:
    """Return the last line of a log that says something; empty when there is none.

    What Slurm adds when a job ends is left out: it hides the command's own last words.
    """
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    told = [line for line in lines if line.strip() and not _SLURM_SAYS.match(line)]
    return (told or lines or [""])[-1]


def _broken_before(folder: Path, in_queue: Mapping[str, JobState]) -> str:
    """Name a job before this one that ended without being done; empty: there is none."""
    for before in read_after(folder):
        state = state_of(before, in_queue)
        if not state.live and state.state != "done":
            return before.name
    return ""


def _how_it_stopped(folder: Path, code: int | None) -> str:
    if code is None:
        return "ended without a word: time limit, lost node or scancel"
    return last_line(folder / "log.txt")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return ""
