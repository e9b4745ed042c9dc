"""A verb of the command line run from Python: as an experiment, here or on a cluster.

On a cluster a call returns at once with a handle; on this machine when the work is done. The
functions of each verb are in ``stage_functions``.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrun.config.cluster import Cluster
from longrun.config.commands import Place, Wanted, build_recipe, read_named
from longrun.config.nemo_skills.verbs import EVAL_VERB
from longrun.config.recipe import Recipe, StagePlan
from longrun.config.settings import StageConfig
from longrun.launch.commands import POLL_SECONDS, Arguments, JobHandle, choose_from_python
from longrun.launch.graph import Launch, Submitted, submit_recipe
from longrun.launch.jobs import JobState
from longrun.launch.local import run_local
from longrun.launch.local_jobs import TELLING, Watcher
from longrun.launch.stage_jobs import idle_options, place_of

_LOGS = {"train": "training-logs", EVAL_VERB: "eval-logs"}
"""Command of the reference -> folder of its logs inside ``output_dir``."""


@dataclass(frozen=True, slots=True)
class ExperimentHandle:
    """The jobs of one call."""

    name: str
    jobs: tuple[JobHandle, ...]
    notes: tuple[str, ...] = ()
    """Options that had no effect, and why."""

    def states(self) -> dict[str, JobState]:
        """Ask what became of every job.

        Raises:
            LaunchError: Slurm does not answer.
        """
        return {job.name: job.state() for job in self.jobs}

    def wait(self) -> dict[str, JobState]:
        """Wait until every job has ended and return what became of each."""
        while True:
            states = self.states()
            if not any(state.live for state in states.values()):
                return states
            time.sleep(POLL_SECONDS)

    def cancel(self) -> None:
        """End the jobs that wait or run on a cluster."""
        for job in self.jobs:
            job.cancel()


def start_stages(
    recipe: Recipe, stages: list[StagePlan], launch: Launch, watcher: Watcher
) -> list[Submitted]:
    """Submit ``stages`` as one graph, or run them here to their end; empty: they ran here.

    Raises:
        LongrunError: see ``submit_recipe`` and ``run_local``.
    """
    if launch.cluster.executor == "slurm":
        return submit_recipe(recipe, stages, launch)
    run_local(
        recipe,
        stages,
        watcher,
        replace=launch.replace,
        cluster=launch.cluster,
        run_after=launch.run_after,
        log_dir=launch.log_dir,
    )
    return []


def start_verb(  # noqa: PLR0913 - the options of the command line, under the same names
    verb: str,
    config: StageConfig | None = None,
    *,
    ctx: Arguments | None = None,
    cluster: str | Cluster | None = None,
    config_dir: Path | str | None = None,
    expname: str | None = None,
    run_after: str | Iterable[str] | None = None,
    log_dir: Path | str | None = None,
    partition: str | None = None,
    time_limit: str | int | None = None,
    num_training_jobs: int = 1,
    replace: bool = False,
    **settings: Any,
) -> ExperimentHandle:
    """Run ``verb`` as an experiment; see ``longrun VERB --help`` for its settings.

    They come as ``config``, as options in ``ctx``, or by name in ``settings``, which win.

    Raises:
        ConfigError: a setting is wrong, or the cluster lacks what is asked for.
        LaunchError: the work failed on this machine, or the cluster refused it.
    """
    cluster = choose_from_python(cluster, config_dir)
    names = [run_after] if isinstance(run_after, str) else list(run_after or [])
    settings = {**_chosen(config), **settings}
    wanted = read_named(verb, ctx.args if ctx else [], settings)
    place = Place(
        expname=expname,
        partition=partition,
        time_limit=time_limit,
        on_cluster=cluster.executor == "slurm",
        train=num_training_jobs > 0,
    )
    recipe = build_recipe(wanted, place, cluster.job_dir)
    launch = Launch(
        cluster=cluster,
        run_after=tuple(name for text in names for name in text.split(",") if name),
        num_training_jobs=max(1, num_training_jobs),
        replace=replace,
        log_dir=choose_log_dir(wanted, log_dir),
    )
    start_stages(recipe, list(recipe.stages), launch, TELLING)
    folder = place_of(cluster, recipe)[0] / recipe.name / "jobs"
    jobs = tuple(JobHandle(stage.name, folder / stage.name) for stage in recipe.stages)
    given = {"partition": partition, "time_limit": time_limit}
    idle = idle_options(cluster, given | {"num_training_jobs": num_training_jobs > 1})
    return ExperimentHandle(recipe.name, jobs, (*wanted.notes, *idle))


def _chosen(config: StageConfig | None) -> dict[str, Any]:
    return {} if config is None else config.model_dump(mode="json", exclude_unset=True)


def choose_log_dir(wanted: Wanted, named: Path | str | None) -> Path | None:
    """Return the folder for logs: the one that is named, or the reference's beside its output."""
    if named is not None:
        return Path(named)
    output_dir = wanted.moved.get("output_dir")
    folder = _LOGS.get(wanted.verb)
    return None if output_dir is None or folder is None else Path(str(output_dir)) / folder
