"""The text of ``job.sh`` and ``command.sh``: a pure function of a job and a cluster file.

The same ``job.sh`` runs under Slurm and on this machine. It is meant to be read, and to be
submitted again by hand. Its promises:

* it starts nothing unless every job before it is done, whatever the scheduler believes;
* a warning of the time limit reaches the command as SIGUSR1; a command that can be resumed then
  goes back into the queue under the same job id, and so it does when a node is lost;
* ``exit`` is written last, whole, and only by the newest attempt.
"""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

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


def render_job(cluster: Cluster, job: Job, experiment: str) -> str:
    """Return the text of ``job.sh``."""
    head = ["#!/bin/bash"]
    if cluster.executor == "slurm":
        head += [f"#SBATCH {option}" for option in sbatch_options(cluster, job, experiment)]
    job_path = shlex.quote(str(job.folder))
    by_hand = "sbatch" if cluster.executor == "slurm" else "bash"
    head += [
        f"# Job {job.name} of experiment {experiment}. To start it again by hand:",
        f"# {by_hand} {job_path}/job.sh",
        "set -u",
        f"job={job_path}",
        f"after=({_words(map(str, job.after))})",
    ]
    parts = [
        "\n".join(head),
        _START.format(
            continued=CONTINUED,
            cancelled=EXIT_CANCELLED,
            begin="" if job.num_parts else "\nbegin",
        ),
        _environment(cluster, job),
        _launch(cluster, job),
        _ending(cluster, job),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def render_command(job: Job) -> str:
    """Return the text of ``command.sh``."""
    lines = ["#!/bin/bash", f"# What job.sh of {job.name} starts, once on every node."]
    if job.resources.num_nodes > 1:
        lines.append("export NODE_RANK=${NODE_RANK:-$SLURM_NODEID}")
    lines.append('touch "$LONGRUN_FOLDER/nodes/${NODE_RANK:-0}"')
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
        ("output", job.folder / ("parts/%a/log.txt" if job.num_parts else "log.txt")),
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


_START = """
attempt=${{SLURM_JOB_ID:-here-$$}}.${{SLURM_RESTART_COUNT:-0}}
folder=$job
put() {{ printf '%s\\n' "$2" > "$folder/.$1.$$.tmp" && mv -f "$folder/.$1.$$.tmp" "$folder/$1"; }}
exit_of() {{ cat "$1/exit" 2> /dev/null; }}
begin() {{ put attempt "$attempt"; rm -f "$folder/exit"; }}
# Only the newest attempt says how it ended: on a node that was lost an older one may live on.
end() {{ if [ "$(cat "$folder/attempt")" = "$attempt" ]; then put exit "$1"; fi; }}
say() {{ echo "longrun: $*" >&2; }}

if [ "$(exit_of "$job")" = 0 ]; then say "$job is done"; exit 0; fi
# A later job of a chain goes on where the one before it stopped, unless that one failed.
if [ "${{1:-}}" = {continued} ]; then
  case "$(exit_of "$job")" in '' | 75) ;; *) say "an earlier job failed"; exit 1 ;; esac
fi
id=${{SLURM_ARRAY_JOB_ID:-${{SLURM_JOB_ID:-}}}}
if [ -n "$id" ] && ! grep -qx "$id" "$job/ids" 2> /dev/null; then
  echo "$id" >> "$job/ids"
fi{begin}
# What the scheduler was told is an optimisation; the exit files are the truth. A network file
# system may show one late.
for before in ${{after[@]+"${{after[@]}}"}}; do
  for _ in $(seq "${{LONGRUN_FILE_SECONDS:-30}}"); do
    if [ -e "$before/exit" ]; then break; fi
    sleep 1
  done
  if [ "$(exit_of "$before")" != 0 ]; then
    say "cancelled: $before did not finish"
    put exit {cancelled}
    exit {cancelled}
  fi
done
"""


def _environment(cluster: Cluster, job: Job) -> str:
    lines = []
    if cluster.required_env:
        lines.append(
            f"for name in {' '.join(cluster.required_env)}; do\n"
            '  if [ -z "${!name:-}" ]; then say "$name is not set"; put exit 2; exit 2; fi\n'
            "done"
        )
    lines += [
        f"export {name}={shlex.quote(value)}" for name, value in variables(cluster, job).items()
    ]
    if cluster.executor == "slurm":
        lines.append(f"export {LOCK_VARIABLE}={LOCK_SECONDS}")
    if job.num_parts:
        lines.append(f"export LONGRUN_NUM_PARTS={job.num_parts}")
    if job.resources.num_nodes > 1:
        lines += _meeting_place(cluster, job)
    return "\n".join(lines)


def _meeting_place(cluster: Cluster, job: Job) -> list[str]:
    first, count = PORTS
    lines = [
        "# Where the nodes meet. Another attempt meets at another port.",
        "unset NODE_RANK",
        f"export NNODES={job.resources.num_nodes}",
    ]
    if cluster.executor == "local":
        return [
            *lines,
            "export MASTER_ADDR=127.0.0.1",
            f"export MASTER_PORT=$(({first} + $$ % {count}))",
        ]
    number = "SLURM_JOB_ID * 7 + ${SLURM_RESTART_COUNT:-0}"
    return [
        *lines,
        f"export MASTER_PORT=$(({first} + ({number}) % {count}))",
        'first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        'MASTER_ADDR=$(scontrol show node "$first_node" | grep -o "NodeAddr=[^ ]*" | cut -d= -f2)',
        "export MASTER_ADDR",
    ]


def _launch(cluster: Cluster, job: Job) -> str:
    command = [*leading_words(cluster, job), "bash", str(job.folder / "command.sh")]
    nodes = job.resources.num_nodes
    if cluster.executor == "slurm":
        cores = [f"--cpus-per-task={job.resources.cpus}"] if job.resources.cpus else []
        srun = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--kill-on-bad-exit=1", *cores]
        command = [*srun, *srun_options(cluster, job), *command]
    elif nodes > 1:
        python = cluster.python or sys.executable
        command = [python, "-m", "longrun.launch.start_nodes", str(nodes), *command]
    stop = "USR1" if cluster.executor == "slurm" else "TERM"
    return _RUN.format(command=shlex.join(command), stop=stop)


_RUN = """
warned= stopped= child=
# Slurm itself ends the command at a SIGTERM; srun would do so at once, but passes SIGUSR1 on.
on_warning() {{ signal=1 warned=1; kill -USR1 "$child" 2> /dev/null; }}
on_stop() {{ signal=1 stopped=1; kill -{stop} "$child" 2> /dev/null; }}
trap on_warning USR1
trap on_stop TERM INT
run() {{
  export LONGRUN_FOLDER=$folder
  rm -rf "$folder/nodes"
  mkdir "$folder/nodes"
  {command} < /dev/null &
  child=$!
  while :; do  # a signal ends `wait`, not the command
    signal=
    wait "$child"
    code=$?
    if [ -z "$signal" ]; then break; fi
  done
}}
"""


def _ending(cluster: Cluster, job: Job) -> str:
    again = ""
    if cluster.executor == "slurm" and job.resumable:
        requeue = _REQUEUE.format(max_restarts=cluster.max_restarts) if cluster.requeue else ""
        num_nodes = job.resources.num_nodes
        again = _AGAIN.format(stopped=EXIT_STOPPED, num_nodes=num_nodes, requeue=requeue)
    if not job.num_parts:
        return f'run\n{again}end "$code"\nexit "$code"'
    tasks = num_tasks(cluster, job)
    indented = "".join(f"  {line}\n" for line in again.splitlines())
    return _PARTS.format(tasks=tasks, num_parts=job.num_parts, again=indented)


_AGAIN = """\
why=
if [ "$code" -eq {stopped} ]; then why="it stopped and can go on"; fi
if [ "$code" -ne 0 ] && [ -n "$warned" ]; then why="time limit"; fi
if [ "$code" -ne 0 ] && [ "$(ls "$folder/nodes" | wc -l)" -lt {num_nodes} ]; then
  why="it did not start on every node"
fi
if [ -n "$why" ] && [ -z "$stopped" ]; then
{requeue}  say "$why"
  code={stopped}
fi
"""
_REQUEUE = """\
  if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {max_restarts} ]; then
    say "$why: back into the queue"
    trap - TERM
    if scontrol requeue "$SLURM_JOB_ID"; then sleep 120; fi
  fi
"""
_PARTS = """
failed=0
for part in $(seq "${{SLURM_ARRAY_TASK_ID:-${{LONGRUN_TASK:-1}}}}" {tasks} {num_parts}); do
  folder=$job/parts/$part
  mkdir -p "$folder"
  if [ "$(exit_of "$folder")" = 0 ]; then continue; fi
  begin
  export LONGRUN_PART=$part
  run
{again}  end "$code"
  if [ "$code" -ne 0 ]; then failed=$code; break; fi
done
folder=$job
if [ "$failed" -ne 0 ]; then put exit "$failed"; exit "$failed"; fi
# The task that finds every part done says that the job is done.
for part in $(seq {num_parts}); do
  if [ "$(exit_of "$job/parts/$part")" != 0 ]; then exit 0; fi
done
put exit 0
"""


def write_scripts(cluster: Cluster, job: Job, experiment: str) -> Path:
    """Write ``job.sh`` and ``command.sh`` into the folder of ``job``; return the former."""
    job.folder.mkdir(parents=True, exist_ok=True)
    write_text(job.folder / "command.sh", render_command(job))
    path = job.folder / "job.sh"
    write_text(path, render_job(cluster, job, experiment))
    return path


def _words(values: "map[str]") -> str:
    return " ".join(shlex.quote(value) for value in values)
