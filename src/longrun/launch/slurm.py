"""Slurm through its own commands: submit a script, ask for live jobs, cancel.

Only live jobs are asked for. What a finished job was is in its folder, so accounting is not
needed and the scheduler may forget.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from longrun.config.cluster import Cluster
from longrun.config.settings import nearest
from longrun.errors import ConfigError, LaunchError, ResourceError
from longrun.launch.jobs import JobState, read_ids

ANSWER_SECONDS = 60.0
"""What a command of Slurm gets to answer."""
_IDS_AT_ONCE = 500
_QUEUED = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"}
_RUNNING = {
    "CONFIGURING",
    "RUNNING",
    "COMPLETING",
    "SUSPENDED",
    "STOPPED",
    "SIGNALING",
    "STAGE_OUT",
    "RESIZING",
}


def submit(
    script: Path, *, after: Iterable[str] = (), kind: str = "afterok", **options: str
) -> str:
    """Submit ``script`` and return its job id; ``after``: ids of jobs it waits for.

    ``options`` are ``sbatch``'s own, as ``array="1,3"``; ``argument`` is passed to the script.

    Raises:
        LaunchError: Slurm refuses or does not answer; its own words are given.
    """
    argument = options.pop("argument", None)
    words = [f"--{name}={value}" for name, value in options.items()]
    ids = list(after)
    if ids:
        words.append(f"--dependency={kind}:{':'.join(ids)}")
    command = ["sbatch", "--parsable", *words, str(script), *([argument] if argument else [])]
    done = _call(command)
    if done.returncode:
        raise LaunchError(
            f"sbatch refused {script}: {_words_of(done)}; mend the cluster file or the settings of"
            " the job and run the same command again"
        )
    return done.stdout.strip().split(";")[0]


def live_jobs(folders: Iterable[Path]) -> dict[str, JobState]:
    """Return job id -> state of those jobs in ``folders`` that wait or run; one call of Slurm.

    Raises:
        LaunchError: Slurm does not answer.
    """
    ids = sorted({name for folder in folders for name in read_ids(folder)}, key=int)
    found: dict[str, JobState] = {}
    for start in range(0, len(ids), _IDS_AT_ONCE):
        for line in _queue(ids[start : start + _IDS_AT_ONCE]):
            name, word, reason = [*line.split(maxsplit=2), "", ""][:3]
            note = f"job {name}, {reason.strip('()').lower()}"
            if word in _RUNNING:
                found[name] = JobState("running", note)
            elif word in _QUEUED:
                found.setdefault(name, JobState("queued", note))
    return found


def cancel(ids: Iterable[str]) -> None:
    """Cancel jobs; those that have ended are left alone.

    Raises:
        LaunchError: Slurm does not answer.
    """
    names = list(ids)
    if names:
        done = _call(["scancel", *names])
        if done.returncode and "nvalid job id" not in done.stderr:
            raise LaunchError(f"scancel: {_words_of(done)}; run the same command again")


def check_partitions(cluster: Cluster, names: Iterable[str | None]) -> None:
    """Check that Slurm has every partition that is named.

    Raises:
        ConfigError: it has not; the known ones are given.
        LaunchError: Slurm does not answer.
    """
    wanted = [name for name in names if name is not None]
    if not wanted:
        return
    done = _call(["sinfo", "--noheader", "--format=%R"])
    if done.returncode:
        raise LaunchError(f"sinfo: {_words_of(done)}; run the same command again")
    known = done.stdout.split()
    for name in wanted:
        for part in name.split(","):
            if part not in known:
                raise ConfigError(
                    f"cluster {cluster.name}: no partition {part!r}; {nearest(part, known)}"
                )


def check_pyxis() -> None:
    """Check that ``srun`` of this cluster can enter containers.

    Raises:
        ResourceError: the plugin is not installed.
    """
    if "container-image" not in _call(["srun", "--help"]).stdout:
        raise ResourceError(
            "container_runtime: pyxis, but srun of this cluster has no --container-image; ask its"
            " administrators for Pyxis or use apptainer"
        )


def _queue(ids: list[str]) -> list[str]:
    done = _call(["squeue", "--noheader", f"--jobs={','.join(ids)}", "--format=%F %T %r"])
    if done.returncode and "nvalid job id" not in done.stderr:
        raise LaunchError(
            f"squeue: {_words_of(done)}; what was submitted is kept, run the same command again"
        )
    return done.stdout.splitlines()


def _call(command: list[str]) -> "subprocess.CompletedProcess[str]":
    if shutil.which(command[0]) is None:
        raise ResourceError(
            f"{command[0]} is not installed here; run this on a login node, or name ssh: in the"
            " cluster file"
        )
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=ANSWER_SECONDS,
            env=_environment(),
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise LaunchError(
            f"{command[0]}: no answer within {ANSWER_SECONDS:.0f} s; what was submitted is kept,"
            " run the same command again"
        ) from None


def _environment() -> dict[str, str]:
    """Return this environment without what a surrounding job says about itself."""
    inherited = re.compile(r"^(SLURM_(?!CONF$)|SBATCH_|SRUN_)")
    return {name: value for name, value in os.environ.items() if not inherited.match(name)}


def _words_of(done: "subprocess.CompletedProcess[str]") -> str:
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    return "; ".join(re.sub(r"^\w+: (error: )?", "", line) for line in lines[:3]) or (
        f"exit code {done.returncode}"
    )
