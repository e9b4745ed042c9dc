"""Look at experiments: list them, show the jobs of one, find a log, end what runs.

Everything is read from folders; Slurm is asked once, and only about jobs that have not ended.
When it does not answer, what the folders say is shown, and that it did not answer.
"""

import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from longrun.config.cluster import Cluster
from longrun.config.recipe import load_recipe
from longrun.config.settings import nearest
from longrun.errors import ConfigError, LaunchError, LongrunError
from longrun.formats.stages.atomic import write_text
from longrun.formats.stages.run_state import StageRow, State
from longrun.launch import slurm
from longrun.launch.containers import on_host
from longrun.launch.experiment import (
    GRAPH_NAME,
    Experiment,
    Graph,
    Node,
    experiment_folders,
    find_experiment,
    holder_of,
    read_graph,
)
from longrun.launch.jobs import (
    CANCELLED_NAME,
    JobState,
    is_running_here,
    read_exit,
    read_ids,
    state_of,
)
from longrun.launch.orphans import STOP_SECONDS, end_orphan
from longrun.launch.run_folder import RECIPE_NAME, open_run, stage_rows
from longrun.launch.stage_jobs import seen_from_host

_SPARE_SECONDS = 10.0
"""What a command gets beside the time of its jobs, to end itself."""
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class ExperimentRow:
    """One experiment in a list."""

    name: str
    cluster: str
    started: float
    counts: dict[State, int]
    """Jobs in each state."""
    folder: Path


@dataclass(frozen=True, slots=True)
class FoundJob:
    """One job of an experiment."""

    name: str
    folder: Path

    def log_of(self, part: int | None) -> Path:
        """Return its log, or that of one task of an array."""
        return self.folder / ("log.txt" if part is None else f"parts/{part}/log.txt")

    def is_live(self) -> bool:
        """Say whether it waits or runs; while Slurm does not answer: yes."""
        in_queue, silent = _queue([self.folder])
        return bool(silent) or state_of(self.folder, in_queue).live


def place_outside(cluster: Cluster, place: str | None) -> str | None:
    """Return ``place`` as it is called outside of containers; for a recipe, the folder of its run.

    Raises:
        ConfigError: it is a recipe that cannot be read.
    """
    if place is not None and Path(place).is_file():
        recipe = seen_from_host(cluster, load_recipe(Path(place), [], cluster.job_dir))
        return str(recipe.output_dir) if recipe.output_dir.is_dir() else place
    return str(on_host(cluster, Path(place))) if place and place.startswith("/") else place


def find_place(job_dir: Path, place: str | None) -> Path | None:
    """Return the run folder or recipe that ``place`` names; None: a folder of runs.

    The name of an experiment comes before a folder of the same name in the working folder.

    Raises:
        ConfigError: it is neither a path nor the name of an experiment.
    """
    if place is None:
        return None
    path = Path(place)
    if "/" not in place and (job_dir / place / GRAPH_NAME).exists():
        return find_experiment(job_dir, place).folder
    if path.is_file() or any((path / name).exists() for name in (GRAPH_NAME, RECIPE_NAME)):
        return path
    if path.is_dir():
        return None
    if "/" in place:
        raise ConfigError(f"{place}: no run here; runs are looked for by name in {job_dir}")
    return find_experiment(job_dir, place).folder


def rows_of(place: Path) -> tuple[list[StageRow], str]:
    """Look at the jobs of one experiment; also return why Slurm could not be asked, if so."""
    recipe = open_run(place) if place.is_file() or (place / RECIPE_NAME).exists() else None
    folder = recipe.output_dir if recipe else place
    graph = read_graph(folder) if (folder / GRAPH_NAME).exists() else None
    in_queue, silent = _queue(job.folder for job in graph.jobs) if graph else ({}, "")
    if recipe is not None:
        return stage_rows(recipe, in_queue), silent
    states = [(job, state_of(job.folder, in_queue)) for job in (graph.jobs if graph else ())]
    return [
        StageRow(job.name, "command", state.state, state.reason, None, job.folder)
        for job, state in states
    ], silent


def list_experiments(job_dir: Path, newest: int | None) -> tuple[list[ExperimentRow], int, str]:
    """Look at the newest experiments (None: all); also return how many there are, and see above.

    Raises:
        ConfigError: there are none.
    """
    folders = experiment_folders(job_dir)
    if not folders:
        raise ConfigError(f"{job_dir}: no runs here; start one with `longrun run RECIPE`")
    graphs = [(folder, read_graph(folder)) for folder in folders[:newest]]
    open_jobs = [
        job.folder for _, graph in graphs for job in graph.jobs if read_exit(job.folder) != 0
    ]
    in_queue, silent = _queue(open_jobs)
    rows = [
        ExperimentRow(folder.name, graph.cluster, graph.started, _count(graph, in_queue), folder)
        for folder, graph in graphs
    ]
    return rows, len(folders), silent


def find_job(job_dir: Path, place: str, name: str | None) -> FoundJob:
    """Return one job of an experiment; ``name`` may be left out where there is only one.

    Raises:
        ConfigError: there is no such experiment or job.
    """
    jobs = {job.name: job for job in _jobs_of(job_dir, place)[1]}
    if name is None and len(jobs) == 1:
        name = next(iter(jobs))
    if name is None:
        raise ConfigError(f"{place}: which job? known: {', '.join(jobs)}")
    if name not in jobs:
        raise ConfigError(f"{place}: no stage {name!r}; {nearest(name, list(jobs))}")
    return FoundJob(name, jobs[name].folder)


def cancel_jobs(job_dir: Path, place: str, name: str | None) -> list[str]:
    """End the jobs of an experiment that wait or run, or ``name`` and what follows it.

    Raises:
        ConfigError: there is no such experiment or job.
        LaunchError: Slurm does not answer, or a job goes on out of reach.
    """
    folder, jobs = _jobs_of(job_dir, place)
    if name is not None:
        jobs = _with_followers(jobs, find_job(job_dir, place, name).folder)
    in_queue = slurm.live_jobs(job.folder for job in jobs) if _any_ids(jobs) else {}
    ended = [job for job in jobs if state_of(job.folder, in_queue).live]
    queued = [job for job in ended if read_ids(job.folder)]
    slurm.cancel(i for job in queued for i in read_ids(job.folder) if i in in_queue)
    for job in queued:
        write_text(job.folder / CANCELLED_NAME, "by longrun cancel\n")
    if len(queued) < len(ended):
        # Jobs of this machine end with the command that started them; so do those that wait.
        waiting = [job for job in jobs if state_of(job.folder, in_queue).state == "waiting"]
        running = [job for job in ended if job not in queued]
        for job in (*running, *waiting):
            job.folder.mkdir(parents=True, exist_ok=True)
            write_text(job.folder / CANCELLED_NAME, "by longrun cancel\n")
        _end_here(Experiment(folder.name, folder), running)
        ended = [job for job in jobs if job in ended or job in waiting]
    return [job.name for job in ended]


def _end_here(experiment: Experiment, jobs: list[Node]) -> None:
    """End jobs of this machine and wait for it: by the command that started them, if it lives."""
    process = holder_of(experiment)
    if process is not None:
        os.kill(process, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS + _SPARE_SECONDS
        while holder_of(experiment) == process and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    for job in jobs:
        if is_running_here(job.folder) and not end_orphan(job.folder):
            raise LaunchError(
                f"{job.name} goes on: it runs on another machine, or in processes that this user"
                f" may not end; end it there (log: {job.folder / 'log.txt'})"
            )


def _jobs_of(job_dir: Path, place: str) -> tuple[Path, tuple[Node, ...]]:
    found = find_place(job_dir, place)
    if found is None:
        raise ConfigError(f"{place}: no run here; runs are looked for by name in {job_dir}")
    folder = (open_run(found).output_dir if found.is_file() else found).resolve()
    return folder, read_graph(folder).jobs


def _with_followers(jobs: Iterable[Node], first: Path) -> tuple[Node, ...]:
    chosen: list[Node] = []
    for job in jobs:  # in running order
        before = {other.folder for other in chosen}
        if job.folder == first or not before.isdisjoint(job.after):
            chosen.append(job)
    return tuple(chosen)


def _any_ids(jobs: Iterable[Node]) -> bool:
    return any(read_ids(job.folder) for job in jobs)


def _count(graph: Graph, in_queue: dict[str, JobState]) -> dict[State, int]:
    counts: dict[State, int] = {}
    for job in graph.jobs:
        state = state_of(job.folder, in_queue).state
        counts[state] = counts.get(state, 0) + 1
    return counts


def _queue(folders: Iterable[Path]) -> tuple[dict[str, JobState], str]:
    asked = [folder for folder in folders if read_exit(folder) != 0 and read_ids(folder)]
    if not asked:
        return {}, ""
    try:
        return slurm.live_jobs(asked), ""
    except LongrunError as error:
        return {}, str(error)
