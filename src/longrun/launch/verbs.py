"""The verbs of the command line as functions, with the same names for everything.

    from longrun import pack, train
    packed = pack(documents="runs/x/prepare", output_dir="runs/x/pack", cluster="slurm")
    train(packs="runs/x/pack", model="base", cluster="slurm", expname="first", run_after="pack")

On a cluster a function returns at once with a handle; on this machine when the work is done.
Options of the reference are taken as well, by name or in ``ctx=wrap_arguments("++...")``.
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
from longrun.launch.commands import POLL_SECONDS, Arguments, JobHandle, choose_from_python
from longrun.launch.graph import Launch, Submitted, submit_recipe
from longrun.launch.jobs import JobState
from longrun.launch.local import run_local
from longrun.launch.local_jobs import QUIET, Watcher
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
    ctx: Arguments | None = None,
    *,
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

    Raises:
        ConfigError: a setting is wrong, or the cluster lacks what is asked for.
        LaunchError: the work failed on this machine, or the cluster refused it.
    """
    cluster = choose_from_python(cluster, config_dir)
    names = [run_after] if isinstance(run_after, str) else list(run_after or [])
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
    start_stages(recipe, list(recipe.stages), launch, QUIET)
    folder = place_of(cluster, recipe)[0] / recipe.name / "jobs"
    jobs = tuple(JobHandle(stage.name, folder / stage.name) for stage in recipe.stages)
    given = {"partition": partition, "time_limit": time_limit}
    idle = idle_options(cluster, given | {"num_training_jobs": num_training_jobs > 1})
    return ExperimentHandle(recipe.name, jobs, (*wanted.notes, *idle))


def choose_log_dir(wanted: Wanted, named: Path | str | None) -> Path | None:
    """Return the folder for logs: the one that is named, or the reference's beside its output."""
    if named is not None:
        return Path(named)
    output_dir = wanted.moved.get("output_dir")
    folder = _LOGS.get(wanted.verb)
    return None if output_dir is None or folder is None else Path(str(output_dir)) / folder


def prepare(ctx: Arguments | None = None, **settings: Any) -> ExperimentHandle:
    """Turn raw records into tokenized documents; see ``start_verb``."""
    return start_verb("prepare", ctx, **settings)


def merge(ctx: Arguments | None = None, **settings: Any) -> ExperimentHandle:
    """Join documents that were prepared apart; see ``start_verb``."""
    return start_verb("merge", ctx, **settings)


def pack(ctx: Arguments | None = None, **settings: Any) -> ExperimentHandle:
    """Decide which documents share a pack; see ``start_verb``."""
    return start_verb("pack", ctx, **settings)


def train(ctx: Arguments | None = None, **settings: Any) -> ExperimentHandle:
    """Fine-tune a model on packs; see ``start_verb``."""
    return start_verb("train", ctx, **settings)


def average(ctx: Arguments | None = None, **settings: Any) -> ExperimentHandle:
    """Average checkpoints of one training; see ``start_verb``."""
    return start_verb("average", ctx, **settings)


def convert(ctx: Arguments | None = None, **settings: Any) -> ExperimentHandle:
    """Bring a model or packs into another form; see ``start_verb``."""
    return start_verb("convert", ctx, **settings)


def generate(ctx: Arguments | None = None, **settings: Any) -> ExperimentHandle:
    """Sample solutions of benchmark problems; see ``start_verb``."""
    return start_verb("generate", ctx, **settings)


def evaluate(ctx: Arguments | None = None, **settings: Any) -> ExperimentHandle:
    """Grade predictions and summarise them; see ``start_verb``."""
    return start_verb("evaluate", ctx, **settings)


def generate_and_evaluate(ctx: Arguments | None = None, **settings: Any) -> ExperimentHandle:
    """Sample solutions and grade them, as ``eval`` of the reference; see ``start_verb``."""
    return start_verb(EVAL_VERB, ctx, **settings)
