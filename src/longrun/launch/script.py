"""The text of ``job.sh`` and ``command.sh``: a pure function of a job and a cluster file.

The same ``job.sh`` (its text: ``job.sh.jinja``) runs under Slurm and on this machine. It is meant
to be read, and to be submitted again by hand. Its promises:

* it starts nothing unless every job before it is done, whatever the scheduler believes;
* a warning of the time limit reaches the command as SIGUSR1; a command that can be resumed then
  goes back into the queue under the same job id, and so it does when a node is lost;
* ``exit`` is written last, whole, and only by the newest attempt;
* every name in it is quoted: Slurm and bash read it as it was written.
"""

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longrun.config.cluster import Cluster
from longrun.errors import EXIT_STOPPED
from longrun.formats.stages.atomic import write_text
from longrun.formats.stages.stage import LOCK_VARIABLE
from longrun.launch.containers import leading_words, srun_options
from longrun.launch.jobs import EXIT_CANCELLED, Job

CONTINUED = "continued"
"""First argument of ``job.sh`` in the later jobs of a chain."""
LOCK_SECONDS = 600
"""How long a stage waits for an earlier attempt of itself on a node that was lost."""
PORTS = (20000, 12000)
"""First port and number of ports from which the nodes of a job take theirs, by job id."""
_NEEDS_NO_QUOTES = re.compile(r"[A-Za-z0-9_./:=,@+%-]+")


def render_job(cluster: Cluster, job: Job, experiment: str) -> str:
    """Return the text of ``job.sh``."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("longrun.launch", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.get_template("job.sh.jinja")
    return template.render(_words_of(cluster, job, experiment))


def _words_of(cluster: Cluster, job: Job, experiment: str) -> dict[str, Any]:
    """Return what the template is filled with, every text quoted."""
    slurm = cluster.executor == "slurm"
    options = sbatch_options(cluster, job, experiment) if slurm else []
    return {
        "slurm": slurm,
        "options": [quote_directive(option) for option in options],
        "folder": shlex.quote(str(job.folder)),
        "after": " ".join(shlex.quote(str(folder)) for folder in job.after),
        "required": " ".join(cluster.required_env),
        "variables": [(key, shlex.quote(text)) for key, text in variables(cluster, job).items()],
        "command": shlex.join(_launch(cluster, job)),
        "num_nodes": job.resources.num_nodes,
        "num_parts": job.num_parts,
        "num_tasks": num_tasks(cluster, job),
        "resumable": job.resumable,
        "requeue": cluster.requeue,
        "max_restarts": cluster.max_restarts,
        "continued": CONTINUED,
        "cancelled": EXIT_CANCELLED,
        "stopped": EXIT_STOPPED,
        "lock_variable": LOCK_VARIABLE,
        "lock_seconds": LOCK_SECONDS,
        "first_port": PORTS[0],
        "num_ports": PORTS[1],
    }


def quote_directive(option: str) -> str:
    r"""Write an option so that ``sbatch`` reads it as it is from a line ``#SBATCH``.

    ``sbatch`` splits at blanks outside of quotes and reads a backslash as an escape.

    >>> print(quote_directive('--comment=two "words"'))
    "--comment=two \"words\""
    """
    if _NEEDS_NO_QUOTES.fullmatch(option):
        return option
    return '"' + option.replace("\\", "\\\\").replace('"', '\\"') + '"'


def render_command(job: Job) -> str:
    """Return the text of ``command.sh``."""
    lines = ["#!/bin/bash", "# What job.sh starts, once on every node."]
    if job.resources.num_nodes > 1:
        lines.append('export NODE_RANK="${NODE_RANK:-$SLURM_NODEID}"')
    lines.append('touch "$LONGRUN_FOLDER/nodes/${NODE_RANK:-0}"')
    if job.resources.num_nodes > 1:
        lines += [
            "# A node that fails by itself says so; one that is ended for it does not.",
            'failed() { if [ "$1" -gt 0 ] && [ "$1" -lt 128 ]; then echo "$1"; fi; }',
            """trap 'failed $? > "$LONGRUN_FOLDER/nodes/${NODE_RANK:-0}"' EXIT""",
        ]
    if job.resumable:
        lines.append("trap : USR1  # a warning of the time limit is for the command, not for bash")
    lines.append(f"cd {shlex.quote(str(job.start_in))} || exit 2")
    return "\n".join([*lines, job.command, ""])


def sbatch_options(cluster: Cluster, job: Job, experiment: str) -> list[str]:
    """Return every option of ``sbatch``, one a line, in a fixed order."""
    wanted = job.resources
    limit = wanted.time_limit or cluster.time_limits.get(wanted.partition or "")
    options: list[tuple[str, object]] = [
        ("job-name", cluster.job_name_prefix + "-".join(dict.fromkeys((experiment, job.name)))),
        ("output", log_pattern(job)),
        ("open-mode", "append"),
        ("account", cluster.account),
        ("partition", wanted.partition),
        ("nodes", wanted.num_nodes),
        ("ntasks-per-node", 1),
        ("cpus-per-task", wanted.cpus),
        ("gpus-per-node", wanted.num_gpus or None),
        ("mem", cluster.memory),
        ("time", format_limit(limit) if limit else None),
        ("signal", f"B:USR1@{save_seconds(cluster, limit)}" if job.resumable else None),
        ("kill-on-invalid-dep", "yes"),
        ("array", f"1-{num_tasks(cluster, job)}" if job.num_parts else None),
    ]
    flags = ["--requeue" if cluster.requeue else "--no-requeue"]
    flags += ["--exclusive"] if cluster.exclusive else []
    named = [f"--{name}={value}" for name, value in options if value is not None]
    return [*named, *flags, *cluster.sbatch, *wanted.sbatch]


def num_tasks(cluster: Cluster, job: Job) -> int:
    """Return the tasks of an array: one per part, as far as the cluster allows."""
    return min(job.num_parts or 1, cluster.max_array_tasks)


def save_seconds(cluster: Cluster, limit: int | None) -> int:
    """Return how long before its time limit a job is warned, in seconds."""
    return cluster.save_seconds if limit is None else min(cluster.save_seconds, limit // 4)


def format_limit(seconds: int) -> str:
    """Write a time limit as Slurm reads it, in whole minutes, rounded up.

    >>> [format_limit(seconds) for seconds in (300, 90, 3 * 86400)]
    ['0-00:05:00', '0-00:02:00', '3-00:00:00']
    """
    minutes = -(-seconds // 60)
    return f"{minutes // 1440}-{minutes // 60 % 24:02d}:{minutes % 60:02d}:00"


def variables(cluster: Cluster, job: Job) -> Mapping[str, str]:
    """Return the variables that ``job.sh`` sets by value."""
    return {**cluster.env, **job.env, "LONGRUN_PROGRESS": str(job.folder / "progress.json")}


def log_pattern(job: Job) -> str:
    """Return the path of the log as ``sbatch`` takes it, where ``%`` leads a pattern."""
    folder = str(job.folder).replace("%", "%%")
    return folder + ("/parts/%a/log.txt" if job.num_parts else "/log.txt")


def _launch(cluster: Cluster, job: Job) -> list[str]:
    """Return the command that starts ``command.sh`` on every node."""
    command = [*leading_words(cluster, job), "bash", str(job.folder / "command.sh")]
    nodes = job.resources.num_nodes
    if cluster.executor == "slurm":
        cores = [f"--cpus-per-task={job.resources.cpus}"] if job.resources.cpus else []
        srun = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--kill-on-bad-exit=1"]
        # What this script has set reaches the command, also where a job starts without a shell's
        # environment.
        return [*srun, "--export=ALL", *cores, *srun_options(cluster, job), *command]
    if nodes > 1:
        python = cluster.python or sys.executable
        return [python, "-m", "longrun.launch.start_nodes", str(nodes), *command]
    return command


def write_scripts(cluster: Cluster, job: Job, experiment: str) -> Path:
    """Write ``job.sh`` and ``command.sh`` into the folder of ``job``; return the former."""
    job.folder.mkdir(parents=True, exist_ok=True)
    write_text(job.folder / "command.sh", render_command(job))
    path = job.folder / "job.sh"
    write_text(path, render_job(cluster, job, experiment))
    return path
