"""Hand a job to Slurm: scripts into its folder, what it waits for, its id kept.

The id is kept as soon as Slurm has the job, so a command that is cut off, or a cluster that stops
answering, loses nothing: the same command goes on where it stopped.
"""

import json
import logging
import os
from collections.abc import Iterator, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from longrun.config.cluster import Cluster
from longrun.errors import ConfigError, LaunchError, ResourceError
from longrun.formats.stages.atomic import write_text
from longrun.launch import slurm
from longrun.launch.containers import check_image, check_mounts
from longrun.launch.jobs import CANCELLED_NAME, Job, JobState, read_exit, read_ids, state_of
from longrun.launch.script import CONTINUED, num_tasks, write_scripts
from longrun.launch.snapshot import copy_longrun, copy_repository

InQueue = MutableMapping[str, JobState]
"""Job id -> state of live jobs; what is submitted is added."""
REPOSITORY_VARIABLE = "LONGRUN_REPOSITORY"
"""COPY:FOLDER of a repository that was copied where the command line was given."""
log = logging.getLogger(__name__)
_ATTEMPTS = 3
"""Submissions of a job whose predecessor ends at that very moment."""


@dataclass(frozen=True, slots=True)
class CodePlace:
    """Where jobs find their code."""

    python_path: Path
    """A copy of Longrun's package, for PYTHONPATH."""
    start_in: Path
    """Folder in which commands start."""
    repository: Path | None = None
    """A copy of the user's repository."""

    def variables(self) -> dict[str, str]:
        """Return what tells a job where its code lies."""
        places = [self.python_path, *([self.repository] if self.repository else [])]
        named = {"LONGRUN_CODE": str(self.repository)} if self.repository else {}
        return {"PYTHONPATH": ":".join(map(str, places)), **named}


def keep_code(cluster: Cluster, *, make: bool = True) -> CodePlace:
    """Copy the code that jobs run, or only say where the copy would lie.

    Raises:
        InputError: see ``copy_repository``.
    """
    package = copy_longrun(cluster.job_dir)
    here = Path.cwd()
    copies = [package]
    place = CodePlace(package.place, here)
    sent, _, inside_sent = os.environ.get(REPOSITORY_VARIABLE, "").partition(":")
    if cluster.code == "repository" and sent:
        place = CodePlace(package.place, Path(sent, inside_sent), Path(sent))
    elif cluster.code == "repository":
        repository = copy_repository(here, cluster.job_dir)
        inside = here.resolve().relative_to(repository.root.resolve())
        place = CodePlace(package.place, repository.place / inside, repository.place)
        copies.append(repository)
    for copy in copies if make else []:
        copy.make()
    return place


def check_jobs(cluster: Cluster, jobs: list[Job]) -> None:
    """Check with Slurm and on this file system what jobs ask for, before any is submitted.

    Raises:
        ConfigError: a partition, an image or a mounted folder does not exist.
        ResourceError: Slurm's commands or Pyxis are missing.
        LaunchError: Slurm does not answer.
    """
    for name in slurm.ignored_variables():
        log.warning("%s is ignored; write what it asks for into sbatch: of the cluster file", name)
    slurm.check_partitions(cluster, (job.resources.partition for job in jobs))
    check_variables(cluster)
    check_mounts(cluster)
    images = {job.image for job in jobs if job.image}
    for image in images:
        check_image(image)
    if images and cluster.container_runtime == "pyxis":
        slurm.check_pyxis()


def check_jobs_here(cluster: Cluster, jobs: list[Job]) -> None:
    """Check in a dry run what ``check_jobs`` checks; where Slurm cannot be asked, say so.

    Raises:
        ConfigError: as ``check_jobs``; folders and images may be elsewhere and are left out.
    """
    check_variables(cluster)
    try:
        slurm.check_partitions(cluster, (job.resources.partition for job in jobs))
    except (LaunchError, ResourceError) as error:
        log.warning("partitions were not checked: %s", error)


def check_variables(cluster: Cluster) -> None:
    """Check that every required variable is set here.

    Raises:
        ConfigError: one is not.
    """
    for name in cluster.required_env:
        if not os.environ.get(name):
            raise ConfigError(
                f"cluster {cluster.name}: required_env: {name} is not set; export {name}=... and"
                " run the same command again"
            )


def prepare_folder(cluster: Cluster, job: Job, experiment: str) -> Path:
    """Write the scripts of ``job``, forget its last attempt, and return ``job.sh``.

    Parts of an array that are done stay done.
    """
    script = write_scripts(cluster, job, experiment)
    write_text(job.folder / "after.json", json.dumps([str(before) for before in job.after]))
    for name in ("exit", "attempt", CANCELLED_NAME, "ids", "progress.json"):
        (job.folder / name).unlink(missing_ok=True)
    for task in range(1, num_tasks(cluster, job) + 1) if job.num_parts else []:
        _link_log(job, job.folder / "parts" / str(task) / "log.txt", f"-{task}")
    if not job.num_parts:
        _link_log(job, job.folder / "log.txt", "")
    return script


def submit_job(
    cluster: Cluster, job: Job, experiment: str, in_queue: InQueue, *, chain: int = 1
) -> list[str]:
    """Submit ``job`` after those of its predecessors that are not done; return its ids.

    ``chain``: times the same script is submitted, each after the one before.

    Raises:
        LaunchError: Slurm refuses or does not answer, or a predecessor failed meanwhile.
    """
    script = prepare_folder(cluster, job, experiment)
    options = {"array": tasks} if (tasks := _open_tasks(cluster, job)) else {}
    ids = [_submit_after(script, job, in_queue, options)]
    _keep_id(job, ids[-1], in_queue)
    while len(ids) < chain:
        ids.append(
            slurm.submit(script, after=[ids[-1]], kind="afterany", argument=CONTINUED, **options)
        )
        _keep_id(job, ids[-1], in_queue)
    return ids


def _submit_after(script: Path, job: Job, in_queue: InQueue, options: dict[str, str]) -> str:
    for attempt in range(_ATTEMPTS):
        waiting = list(_ids_before(job, in_queue))
        try:
            return slurm.submit(script, after=waiting, **options)
        except LaunchError as error:
            # A predecessor that has just ended may be unknown to Slurm already.
            if "dependency" not in str(error).lower() or attempt == _ATTEMPTS - 1:
                raise
            for name in waiting:
                in_queue.pop(name, None)
            in_queue.update(slurm.live_jobs(job.after))
    raise AssertionError("the last attempt returns or raises")


def _ids_before(job: Job, in_queue: InQueue) -> Iterator[str]:
    """Yield the ids that ``job`` waits for; jobs that are done need no waiting for."""
    for folder in job.after:
        state = state_of(folder, in_queue)
        if state.live:
            yield read_ids(folder)[-1]
        elif state.state != "done":
            raise LaunchError(
                f"{job.name}: cannot start after {folder.name}, which is {state.state}"
                f" {state.reason} (log: {folder / 'log.txt'}); run that first"
            )


def _keep_id(job: Job, name: str, in_queue: InQueue) -> None:
    # Appended to, as the job itself may do at the same time.
    with open(job.folder / "ids", "a") as file:
        file.write(f"{name}\n")
    in_queue[name] = JobState("queued", f"job {name}")


def _open_tasks(cluster: Cluster, job: Job) -> str:
    """Return the tasks of an array that have parts to do; empty: all of them."""
    if not job.num_parts:
        return ""
    tasks = num_tasks(cluster, job)
    still = [
        task
        for task in range(1, tasks + 1)
        if any(
            read_exit(job.folder / "parts" / str(part)) != 0
            for part in range(task, job.num_parts + 1, tasks)
        )
    ]
    return "" if len(still) in (0, tasks) else ",".join(map(str, still))


def _link_log(job: Job, link: Path, suffix: str) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if job.log is None:
        return
    target = job.log.with_name(f"{job.log.stem}{suffix}{job.log.suffix}").absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        link.unlink()
    link.symlink_to(target)
