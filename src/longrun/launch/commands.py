"""Any shell command as a job: ``run_cmd`` of the command line and of Python.

    from longrun import run_cmd, wrap_arguments
    pack = run_cmd(ctx=wrap_arguments("python pack.py"), cluster="slurm", expname="pack")
    run_cmd(ctx=wrap_arguments("python merge.py"), cluster="slurm", run_after=["pack"])

On a cluster it returns at once with a handle; on this machine when the command has ended.
"""

import logging
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrun.config.cluster import Cluster, JobSettings, load_cluster, with_environment
from longrun.errors import ConfigError, LaunchError
from longrun.launch import slurm
from longrun.launch.asked import join_commands, read_asked
from longrun.launch.containers import find_inside
from longrun.launch.experiment import (
    Experiment,
    check_before,
    jobs_before,
    locked,
    make_experiment,
    write_graph,
)
from longrun.launch.jobs import (
    CANCELLED_NAME,
    Job,
    JobState,
    Resources,
    read_exit,
    read_ids,
    state_of,
)
from longrun.launch.local import gpus_here, wait_for
from longrun.launch.local_jobs import TELLING, LocalJob, LocalRun, Machine, Watcher
from longrun.launch.names import check_names
from longrun.launch.script import render_command, render_job
from longrun.launch.stage_jobs import (
    check_gpus,
    cores_here,
    idle_options,
    log_into,
    partition_of,
)
from longrun.launch.submit import (
    check_jobs,
    check_jobs_here,
    check_variables,
    keep_code,
    prepare_folder,
    submit_job,
)

POLL_SECONDS = 2.0
DEFAULT_NAME = "script"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Arguments:
    """A shell command, as the command line gives it: words that are joined by spaces."""

    args: list[str]

    @property
    def text(self) -> str:
        """The command."""
        return " ".join(self.args)


def wrap_arguments(arguments: str) -> Arguments:
    """Make of a shell command what ``run_cmd`` takes as ``ctx``."""
    return Arguments(arguments.split(" "))


@dataclass(frozen=True, slots=True)
class JobHandle:
    """A job that was submitted."""

    name: str
    folder: Path

    @property
    def ids(self) -> list[str]:
        """Job ids of Slurm; empty on this machine."""
        return read_ids(self.folder)

    def state(self) -> JobState:
        """Ask what became of the job.

        Raises:
            LaunchError: Slurm does not answer.
        """
        in_queue = slurm.live_jobs([self.folder]) if self.ids else {}
        return state_of(self.folder, in_queue)

    def wait(self) -> JobState:
        """Wait until the job has ended and return what became of it."""
        while (state := self.state()).live:
            time.sleep(POLL_SECONDS)
        return state

    def log(self) -> str:
        """Return what the job has printed so far."""
        path = self.folder / "log.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def cancel(self) -> None:
        """End the job if it waits or runs on a cluster."""
        (self.folder / CANCELLED_NAME).write_text("by a command\n")
        slurm.cancel(self.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A shell command and what it asks for; see ``run_cmd``."""

    text: str
    cluster: Cluster
    expname: str
    settings: JobSettings
    num_nodes: int = 1
    num_parts: int | None = None
    run_after: tuple[str, ...] = ()
    log_dir: Path | None = None
    resumable: bool = False


def run_cmd(  # noqa: PLR0913 - the options of the command line, under the same names
    ctx: Arguments | str,
    *,
    cluster: str | Cluster | None = None,
    expname: str = DEFAULT_NAME,
    container: str | None = None,
    partition: str | None = None,
    time_limit: str | int | None = None,
    num_gpus: int | None = None,
    num_nodes: int = 1,
    num_parts: int | None = None,
    run_after: str | Iterable[str] | None = None,
    log_dir: Path | str | None = None,
    config_dir: Path | str | None = None,
    resumable: bool = False,
    preprocess_cmd: str | None = None,
    postprocess_cmd: str | None = None,
    **others: Any,
) -> JobHandle:
    """Run a shell command as a job; see ``longrun run_cmd --help`` for the options.

    ``others`` are options that every command of the reference has, as ``time_min``.

    Raises:
        ConfigError: an option is wrong, the cluster lacks it, or an experiment is unknown.
        LaunchError: the command failed on this machine, or the cluster refused it.
    """
    text = ctx if isinstance(ctx, str) else ctx.text
    cluster = choose_from_python(cluster, config_dir)
    names = [run_after] if isinstance(run_after, str) else list(run_after or [])
    asked = {
        "container": container,
        "partition": partition,
        "time_limit": time_limit,
        "num_gpus": num_gpus,
    }
    return start_command(
        Command(
            text=join_commands(preprocess_cmd, text, postprocess_cmd),
            cluster=cluster,
            expname=expname,
            settings=read_asked(asked, others),
            num_nodes=num_nodes,
            num_parts=num_parts,
            run_after=tuple(name for text in names for name in text.split(",") if name),
            log_dir=None if log_dir is None else Path(log_dir),
            resumable=resumable,
        ),
        TELLING,
    )


def choose_from_python(cluster: str | Cluster | None, folder: Path | str | None) -> Cluster:
    """Return the cluster that a Python program names.

    Raises:
        ConfigError: see ``load_cluster``; or it is reached by ssh, as whole commands are.
    """
    if isinstance(cluster, Cluster):
        cluster = with_environment(cluster)
    else:
        cluster = load_cluster(cluster, None if folder is None else Path(folder))
    if cluster.ssh is not None:
        raise ConfigError(
            f"cluster {cluster.name} is reached by ssh, which takes command lines only; run this"
            f" program on {cluster.ssh.host}, with a cluster file without ssh"
        )
    return cluster


def start_command(command: Command, watcher: Watcher) -> JobHandle:
    """Submit ``command``, or run it here to its end; see ``run_cmd``."""
    cluster, settings = command.cluster, command.settings
    given = {"partition": settings.partition, "time_limit": settings.time_limit}
    for note in idle_options(cluster, given):
        log.info("run_cmd: %s", note)
    before = jobs_before(cluster.job_dir, command.run_after, command.expname)
    job = plan_command(command, before, make=True)
    if cluster.executor == "slurm":
        check_before(before, slurm.live_jobs(before))
        check_jobs(cluster, [job])
    check_variables(cluster)
    experiment = make_experiment(cluster.job_dir, command.expname)
    with locked(experiment):
        in_queue = slurm.live_jobs([job.folder, *before]) if _on_slurm(job, before) else {}
        state = state_of(job.folder, in_queue)
        if state.live:
            raise LaunchError(
                f"experiment {command.expname} is {state.state} ({state.reason}); choose another"
                f" --expname, or end it: longrun cancel {command.expname}{cluster.option}"
            )
        write_graph(experiment, cluster, {job.name: before})
        _forget_parts(job)
        if cluster.executor == "slurm":
            submit_job(cluster, job, experiment.name, in_queue)
        else:
            wait_for(before)
            _run_here(command, job, watcher)
    return JobHandle(job.name, job.folder)


def render_scripts(command: Command) -> list[tuple[Path, str]]:
    """Return the scripts that ``start_command`` would write; writes nothing."""
    before = jobs_before(command.cluster.job_dir, command.run_after, command.expname)
    job = plan_command(command, before, make=False)
    if command.cluster.executor == "slurm":
        check_jobs_here(command.cluster, [job])
    return [
        (job.folder / "job.sh", render_job(command.cluster, job, command.expname)),
        (job.folder / "command.sh", render_command(job)),
    ]


def plan_command(command: Command, before: Iterable[Path], *, make: bool) -> Job:
    """Build the job of ``command``; ``make``: copy its code as well.

    Raises:
        ConfigError: an option is wrong.
    """
    cluster, settings = command.cluster, command.settings
    if not command.text.strip():
        raise ConfigError("run_cmd: no command; write it after the options")
    _check_counts(command)
    place = cluster.job_dir / command.expname
    experiment = Experiment(command.expname, place.resolve())
    gpus = settings.num_gpus or 0
    here = cluster.executor == "local"
    code = None if here and cluster.code == "longrun" else keep_code(cluster, make=make)
    image = cluster.image(settings.container)
    start_in = code.start_in if code else Path.cwd()
    folder = experiment.job_folder(command.expname)
    if image:
        start_in = find_inside(cluster, start_in) or folder
    job = Job(
        name=command.expname,
        folder=folder,
        command=command.text,
        start_in=start_in,
        after=tuple(before),
        resources=Resources(
            num_nodes=command.num_nodes,
            num_gpus=gpus,
            cpus=settings.cpus or cluster.cpus_per_node,
            partition=partition_of(cluster, settings.partition, gpus),
            time_limit=settings.time_limit,
            sbatch=tuple(settings.sbatch),
        ),
        resumable=command.resumable,
        num_parts=command.num_parts,
        image=image,
        env=code.variables() if code else {},
    )
    job = log_into(cluster, job, command.log_dir)
    check_names(cluster, job, command.expname)
    return job


def _check_counts(command: Command) -> None:
    for name in ("num_nodes", "num_parts"):
        value = getattr(command, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name}: {value} is below 1")
    wanted = command.settings.num_gpus or 0
    partition = partition_of(command.cluster, command.settings.partition, wanted)
    check_gpus(command.cluster, "num_gpus", wanted, partition)


def _on_slurm(job: Job, before: Iterable[Path]) -> bool:
    return any(read_ids(folder) for folder in (job.folder, *before))


def _forget_parts(job: Job) -> None:
    """Keep the parts of an array that are done only if the same command failed in others."""
    parts = job.folder / "parts"
    if not parts.exists():
        return
    same = (job.folder / "command.sh").read_text() == render_command(job)
    if not same or read_exit(job.folder) == 0:
        shutil.rmtree(parts)


def _run_here(command: Command, job: Job, watcher: Watcher) -> None:
    def prepare(again: bool) -> bool:
        prepare_folder(command.cluster, job, command.expname)
        return True

    total, gpus = cores_here(command.cluster), gpus_here(command.cluster)
    if job.resources.num_gpus * command.num_nodes > len(gpus):
        raise ConfigError(f"num_gpus: {job.resources.num_gpus}, this machine has {len(gpus)}")
    wanted = LocalJob(
        job=job,
        waits_for=frozenset(),
        cores=1 if job.num_parts else total,
        num_gpus=job.resources.num_gpus * command.num_nodes,
        prepare=prepare,
    )
    LocalRun([wanted], Machine(total, gpus), watcher).run()
