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
_MARK = "longrun|"
"""Leads every line that is asked for: a wrapper of a site may print words of its own."""
_TOLD = re.compile(
    "(SBATCH|SRUN|SQUEUE|SCANCEL|SCONTROL|SINFO|SACCT|SALLOC)_|SLURM_(?!CONF|JWT|SACK)"
)
_GPUS = re.compile(r"\bgpu(?::[^:,()]*[^:,()\d][^:,()]*)?(?::(\d+))?(?=[,(]|$)")
"""In resources as ``gpu:8``, ``gpu:a100:8(S:0-1)``: the number; without one it is 1."""
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
            f"sbatch refused {script}: {_words_of(done)}; correct the cluster file or the settings"
            " of the job and run the same command again"
        )
    return _id_in(done.stdout, script)


def _id_in(answer: str, script: Path) -> str:
    """Return the job id in what ``sbatch`` printed: a site's own words may stand around it."""
    found: list[str] = re.findall(
        r"^\s*(?:Submitted batch job )?(\d+)(?:;\S*)?\s*$", answer, re.MULTILINE
    )
    if len(found) > 1:  # a number of the site's own: Slurm knows which is the job
        lines = _queue(found, "%F|%o")
        found = [name for name, command in lines if command.startswith(str(script))][-1:]
    if not found:
        raise LaunchError(
            f"sbatch said no job id for {script} ({answer.strip()[-200:]!r}), but may have"
            " submitted it; look with `squeue --me`, cancel it there and run the same command again"
        )
    return found[-1]


def live_jobs(folders: Iterable[Path]) -> dict[str, JobState]:
    """Return job id -> state of those jobs in ``folders`` that wait or run; one call of Slurm.

    Raises:
        LaunchError: Slurm does not answer.
    """
    ids = sorted({name for folder in folders for name in read_ids(folder)}, key=int)
    found: dict[str, JobState] = {}
    for start in range(0, len(ids), _IDS_AT_ONCE):
        for name, word, reason in _queue(ids[start : start + _IDS_AT_ONCE], "%F|%T|%r"):
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
    known = list(dict.fromkeys(name for name, _, _ in _partitions()))
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


def gpus_of_partitions() -> dict[str, int]:
    """Return partition -> GPUs on the node of it that has most; the default one also as ``""``.

    Raises:
        LaunchError: Slurm does not answer.
    """
    most: dict[str, int] = {}
    for name, starred, resources in _partitions():
        gpus = sum(int(count or 1) for count in _GPUS.findall(resources))
        for key in (name, *([""] if starred.endswith("*") else [])):
            most[key] = max(most.get(key, 0), gpus)
    return most


def ignored_variables() -> list[str]:
    """Return the names of Slurm's variables that ask ``sbatch`` for something, unheard."""
    heard = re.compile(r"SBATCH_(ACCOUNT|PARTITION|(CPU|MEM)_BIND.*)")
    return sorted(
        name for name in os.environ if name.startswith("SBATCH_") and not heard.fullmatch(name)
    )


def _partitions() -> list[list[str]]:
    """Return name, name with a star where it is the default, and resources; once per kind."""
    done = _call(["sinfo", "--noheader", f"--format={_MARK}%R|%P|%G"])
    if done.returncode:
        raise LaunchError(f"sinfo: {_words_of(done)}; run the same command again")
    return _marked(done.stdout, 3)


def _queue(ids: list[str], wanted: str) -> list[list[str]]:
    """Return what is ``wanted`` of jobs, whatever their state; those forgotten are left out."""
    command = ["squeue", "--noheader", "--states=all", f"--jobs={','.join(ids)}"]
    done = _call([*command, f"--format={_MARK}{wanted}"])
    if done.returncode and "nvalid job id" not in done.stderr:
        raise LaunchError(
            f"squeue: {_words_of(done)}; what was submitted is kept, run the same command again"
        )
    return _marked(done.stdout, wanted.count("|") + 1)


def _marked(answer: str, num_parts: int) -> list[list[str]]:
    """Return the parts of the lines that Slurm was asked for; a site's own words are left out."""
    lines = [line[len(_MARK) :] for line in answer.splitlines() if line.startswith(_MARK)]
    return [[*line.split("|", num_parts - 1), *[""] * num_parts][:num_parts] for line in lines]


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
    """Return this environment without what tells Slurm's commands what to show or to ask for.

    What a surrounding job says about itself goes as well; how Slurm is reached stays.
    """
    return {name: value for name, value in os.environ.items() if not _TOLD.match(name)}


def _words_of(done: "subprocess.CompletedProcess[str]") -> str:
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    return "; ".join(re.sub(r"^\w+: (error: )?", "", line) for line in lines[:3]) or (
        f"exit code {done.returncode}"
    )
