"""Run the stages of a recipe on this machine, as a graph; see ``local_jobs`` for how."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

from longrun.config.cluster import Cluster, JobSettings
from longrun.config.recipe import Recipe, StagePlan
from longrun.errors import ConfigError
from longrun.launch import slurm
from longrun.launch.experiment import (
    Experiment,
    check_before,
    jobs_before,
    locked,
    make_experiment,
    write_graph,
)
from longrun.launch.jobs import CANCELLED_NAME, SETTINGS_NAME, read_ids, state_of
from longrun.launch.local_jobs import LocalJob, LocalRun, Machine, Watcher
from longrun.launch.names import check_names
from longrun.launch.run_folder import (
    NOTHING_QUEUED,
    clear_output,
    save_recipe,
    stage_row,
    stage_rows,
)
from longrun.launch.stage_jobs import (
    as_inside,
    build_stage_job,
    cores_here,
    cores_of,
    gpus_of,
    log_into,
    place_of,
    seen_from_host,
)
from longrun.launch.submit import check_variables, prepare_folder

HERE = Cluster(executor="local")
"""This machine, without a cluster file."""
_WAIT_SECONDS = 1.0


def select_stages(
    recipe: Recipe, only: str | None, first: str | None, last: str | None
) -> list[StagePlan]:
    """Choose the stages of ``--only``, ``--from`` and ``--to``; all of them by default.

    Raises:
        ConfigError: a name is not a stage of the recipe.
    """
    if only is not None:
        return [recipe.stage(name) for name in only.split(",")]
    stages = list(recipe.stages)
    start = 0 if first is None else stages.index(recipe.stage(first))
    end = len(stages) if last is None else stages.index(recipe.stage(last)) + 1
    return stages[start:end]


def run_local(
    recipe: Recipe,
    stages: list[StagePlan],
    watcher: Watcher,
    *,
    replace: bool,
    cluster: Cluster = HERE,
    run_after: Iterable[str] = (),
    log_dir: Path | None = None,
) -> None:
    """Run ``stages``, several at a time where the machine allows; finished ones are left alone.

    ``log_dir``: folder for the logs; None: they stay with the jobs.

    Raises:
        ConfigError: a stage asks for more GPUs than there are, or waits for an unknown experiment.
        LaunchError: a stage failed or was interrupted; the message holds its last line and log.
    """
    check_variables(cluster)
    recipe = seen_from_host(cluster, recipe)
    stages = [recipe.stage(stage.name) for stage in stages]
    if _is_finished_archive(recipe, stages):
        for stage in stages:
            watcher.ends(stage.name, "up to date")
        return
    job_dir, name = place_of(cluster, recipe)
    before = jobs_before(job_dir, run_after, name)
    experiment = make_experiment(job_dir, name, recipe.output_dir)
    with locked(experiment):
        save_recipe(recipe)
        for stage in stages:  # what was cancelled before waits for its turn again
            (experiment.job_folder(stage.name) / CANCELLED_NAME).unlink(missing_ok=True)
        names = {stage.name for stage in stages}
        edges = {
            stage.name: [experiment.job_folder(name) for name in stage.after if name in names]
            for stage in recipe.stages
        }
        write_graph(experiment, cluster, {name: [*jobs, *before] for name, jobs in edges.items()})
        wait_for(before)
        gpus = gpus_here(cluster)
        work = _Work(cluster, experiment, recipe, replace=replace, log_dir=log_dir)
        jobs = [work.local_job(stage, edges[stage.name], len(gpus)) for stage in stages]
        LocalRun(jobs, Machine(cores_here(cluster), gpus), watcher).run()


def _is_finished_archive(recipe: Recipe, stages: list[StagePlan]) -> bool:
    """Say whether ``stages`` are done and their run lies where nothing can be written."""
    folder = recipe.output_dir
    if not folder.exists() or os.access(folder, os.W_OK):
        return False
    states = {row.name: row.state for row in stage_rows(recipe)}
    return all(states[stage.name] == "done" for stage in stages)


class _Work:
    """What the jobs of one run share."""

    def __init__(
        self,
        cluster: Cluster,
        experiment: Experiment,
        recipe: Recipe,
        *,
        replace: bool,
        log_dir: Path | None,
    ) -> None:
        self._cluster = cluster
        self._experiment = experiment
        self._recipe = recipe
        self._replace = replace
        self._log_dir = log_dir
        # Looking at a stage reads its inputs, so each is looked at once, and again after a change.
        self._rows = {row.name: row for row in stage_rows(recipe)}

    def local_job(self, stage: StagePlan, after: list[Path], num_gpus: int) -> LocalJob:
        """Build the job of ``stage``; ``num_gpus``: those of this machine."""
        cluster, recipe = self._cluster, self._recipe
        job = build_stage_job(cluster, self._experiment, recipe, stage, code=None, after=after)
        job = log_into(cluster, job, self._log_dir)
        check_names(cluster, job, self._experiment.name)
        settings = recipe.jobs.get(stage.name, JobSettings())
        wanted = gpus_of(stage, settings, num_gpus) * job.resources.num_nodes
        if wanted > num_gpus:
            raise ConfigError(
                f"stage {stage.name}: {wanted} GPUs, but this machine has {num_gpus}; lower"
                " num_processes or num_nodes"
            )

        def prepare(again: bool) -> bool:
            row = self._rows[stage.name]
            if again or row.state != "done":
                row = stage_row(recipe, stage, NOTHING_QUEUED, upstream_done=True)
            if row.state == "done":
                return False
            if row.state == "stale" and self._replace:
                clear_output(stage)
            prepare_folder(cluster, job, self._experiment.name)
            inside = as_inside(cluster, stage) if job.image else stage
            inside.config.save(job.folder / SETTINGS_NAME)
            return True

        cores = settings.cpus or cores_of(stage.config, cores_here(cluster))
        names = frozenset(folder.name for folder in after)
        return LocalJob(job=job, waits_for=names, cores=cores, num_gpus=wanted, prepare=prepare)


def wait_for(folders: list[Path]) -> None:
    """Wait until the jobs of other experiments are done.

    Raises:
        LaunchError: one failed, was cancelled or interrupted.
    """
    while True:
        in_queue = slurm.live_jobs(folders) if any(map(read_ids, folders)) else {}
        check_before(folders, in_queue)
        if all(state_of(folder, in_queue).state == "done" for folder in folders):
            return
        time.sleep(_WAIT_SECONDS)


def gpus_here(cluster: Cluster) -> list[str]:
    """Return the names of the GPUs that jobs on this machine may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        found = [name for name in visible.split(",") if name]
    else:
        found = [path.name[6:] for path in sorted(Path("/dev").glob("nvidia[0-9]*"))]
    return found if cluster.gpus_per_node is None else found[: cluster.gpus_per_node]
