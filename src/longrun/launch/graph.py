"""Submit the stages of a recipe to Slurm as one graph, and return at once.

What is done is left alone, and so is what waits or runs; everything else is submitted after the
stages that it reads from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from longrun.config.cluster import Cluster
from longrun.config.plain_yaml import dump_yaml
from longrun.config.recipe import Recipe, StagePlan
from longrun.errors import ConfigError, StaleError
from longrun.formats.stages.atomic import write_text
from longrun.formats.stages.run_state import StageRow
from longrun.launch import slurm
from longrun.launch.experiment import (
    Experiment,
    check_before,
    jobs_before,
    locked,
    make_experiment,
    write_graph,
)
from longrun.launch.foresee import check_inputs, foresee, say_missing
from longrun.launch.jobs import LIVE_STATES, SETTINGS_NAME, Job, read_exit, read_ids
from longrun.launch.names import check_names
from longrun.launch.run_folder import clear_output, save_recipe, stage_rows
from longrun.launch.script import render_command, render_job
from longrun.launch.stage_jobs import (
    as_inside,
    build_stage_job,
    log_into,
    seen_from_host,
    with_absolute_paths,
)
from longrun.launch.submit import (
    CodePlace,
    InQueue,
    check_jobs,
    check_jobs_here,
    keep_code,
    submit_job,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What a command line says beside the recipe."""

    cluster: Cluster
    run_after: tuple[str, ...] = ()
    """Experiments that must be done before any stage starts."""
    num_training_jobs: int = 1
    """Jobs in a chain for each training, where jobs may not put themselves back in the queue."""
    replace: bool = False
    """Delete stale output."""
    log_dir: Path | None = None
    """Folder for the logs, one per stage; None: they stay with the jobs."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of one stage."""

    name: str
    outcome: str
    """``submitted``, ``queued``, ``running`` or ``up to date``."""
    ids: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class _Submission:
    launch: Launch
    recipe: Recipe
    """With the paths that its folders have outside of containers."""
    experiment: Experiment
    code: CodePlace
    rows: Mapping[str, StageRow] = field(default_factory=dict)
    first: list[Path] = field(default_factory=list)
    """Jobs of other experiments that the first stages wait for."""

    def job(self, stage: StagePlan) -> Job:
        cluster = self.launch.cluster
        after = [*self.before(stage), *self.first]
        job = build_stage_job(
            cluster, self.experiment, self.recipe, stage, code=self.code, after=after
        )
        job = log_into(cluster, job, self.launch.log_dir)
        check_names(cluster, job, self.experiment.name)
        self.settings_text(stage, job)  # every path has a name where the job runs
        return job

    def before(self, stage: StagePlan) -> list[Path]:
        return [self.experiment.job_folder(name) for name in stage.after]

    def submit(self, stage: StagePlan, job: Job, in_queue: InQueue) -> Submitted:
        row = self.rows[stage.name]
        if row.state == "done":
            return Submitted(stage.name, "up to date")
        if row.state in LIVE_STATES:
            return Submitted(stage.name, row.state, tuple(read_ids(job.folder)))
        if row.state == "stale" and self.launch.replace:
            clear_output(stage)
        job.folder.mkdir(parents=True, exist_ok=True)
        write_text(job.folder / SETTINGS_NAME, self.settings_text(stage, job))
        chain = self.launch.num_training_jobs if stage.verb == "train" else 1
        ids = submit_job(self.launch.cluster, job, self.experiment.name, in_queue, chain=chain)
        return Submitted(stage.name, "submitted", tuple(ids))

    def check_same(self, stage: StagePlan, job: Job) -> None:
        """Check that a stage that waits or runs does so with the settings of now."""
        path, state = job.folder / SETTINGS_NAME, self.rows[stage.name].state
        if state not in LIVE_STATES or not path.exists():
            return
        if path.read_text() != self.settings_text(stage, job):
            raise ConfigError(
                f"stage {stage.name} is {state} with other settings; cancel it first:"
                f" longrun cancel {self.experiment.name}{self.launch.cluster.option}"
            )

    def settings_text(self, stage: StagePlan, job: Job) -> str:
        """Return the settings file of ``job``, with the paths that files have where it runs."""
        if job.image is not None:
            stage = as_inside(self.launch.cluster, stage)
        elif self.code.repository is not None:
            stage = with_absolute_paths(stage)
        return dump_yaml(stage.config.model_dump(mode="json"))


def submit_recipe(recipe: Recipe, stages: list[StagePlan], launch: Launch) -> list[Submitted]:
    """Submit ``stages`` and return what became of each, in order.

    Raises:
        ConfigError: the cluster lacks what the recipe or the cluster file names.
        LaunchError: a job to wait for has failed, Slurm refuses or does not answer.
        StaleError: output of other settings is in the way; nothing was submitted.
    """
    work = _plan(recipe, launch, keep_code(launch.cluster))
    recipe, before = work.recipe, work.first
    stages = [recipe.stage(stage.name) for stage in stages]
    folders = [*(work.experiment.job_folder(stage.name) for stage in recipe.stages), *before]
    check_before(before, slurm.live_jobs(folders))
    if not launch.run_after:
        check_inputs(recipe, stages)
    jobs = [work.job(stage) for stage in stages]
    foresee(launch.cluster, recipe, stages)
    check_jobs(launch.cluster, jobs)
    experiment = make_experiment(launch.cluster.job_dir, work.experiment.name, recipe.output_dir)
    with locked(experiment):
        in_queue = slurm.live_jobs(folders)
        work.rows = {row.name: row for row in stage_rows(recipe, in_queue)}
        _check_stale(work, stages)
        for stage, job in zip(stages, jobs, strict=True):
            work.check_same(stage, job)
        save_recipe(recipe)
        edges = {stage.name: [*work.before(stage), *before] for stage in recipe.stages}
        write_graph(experiment, launch.cluster, edges)
        for stage in recipe.stages:
            if work.rows[stage.name].state == "done":
                _mark_done(experiment.job_folder(stage.name))
        return [work.submit(stage, job, in_queue) for stage, job in zip(stages, jobs, strict=True)]


def render_recipe(
    recipe: Recipe, stages: list[StagePlan], launch: Launch
) -> list[tuple[Path, str]]:
    """Return every script that ``submit_recipe`` would write; checks what it checks.

    What only the cluster knows is left out where it cannot be asked, and said.
    """
    work = _plan(recipe, launch, keep_code(launch.cluster, make=False))
    stages = [work.recipe.stage(stage.name) for stage in stages]
    jobs = [work.job(stage) for stage in stages]
    foresee(launch.cluster, work.recipe, stages)
    if not launch.run_after:
        say_missing(work.recipe, stages)
    check_jobs_here(launch.cluster, jobs)
    scripts = []
    for job in jobs:
        scripts.append(
            (job.folder / "job.sh", render_job(launch.cluster, job, work.experiment.name))
        )
        scripts.append((job.folder / "command.sh", render_command(job)))
    return scripts


def _plan(recipe: Recipe, launch: Launch, code: CodePlace) -> _Submission:
    seen = seen_from_host(launch.cluster, recipe)
    return _Submission(
        launch=launch,
        recipe=seen,
        experiment=Experiment(recipe.name, seen.output_dir.resolve()),
        code=code,
        first=jobs_before(launch.cluster.job_dir, launch.run_after, recipe.name),
    )


def _check_stale(work: _Submission, stages: list[StagePlan]) -> None:
    if work.launch.replace:
        return
    for stage in stages:
        row = work.rows[stage.name]
        if row.state == "stale" and row.figures != "an earlier stage will run again":
            raise StaleError(
                f"stage {stage.name}: {row.figures}. {stage.config.another}, or run again with"
                " --replace to delete this output"
            )


def _mark_done(folder: Path) -> None:
    """Say in the folder of a stage that was finished otherwise what its jobs look for."""
    if read_exit(folder) != 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "exit", "0\n")
