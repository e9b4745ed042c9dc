"""The verbs about whole runs: run, demo, status, logs, cancel, schema."""

import json
import logging
import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from longrun.cli.options import (
    ClusterName,
    ConfigDir,
    DryRun,
    RunAfter,
    choose_cluster,
    names_in,
)
from longrun.cli.show import (
    RunScreen,
    make_console,
    print_experiments,
    print_graph,
    print_results,
    print_rows,
    print_scripts,
    print_submitted,
)
from longrun.config.cluster import Cluster
from longrun.config.recipe import Recipe, StagePlan, load_recipe
from longrun.config.recipe_schema import recipe_schema
from longrun.config.shipped_recipes import find_recipe
from longrun.errors import ConfigError
from longrun.launch.graph import Launch, render_recipe
from longrun.launch.inspect_jobs import (
    cancel_jobs,
    find_job,
    find_place,
    list_experiments,
    place_outside,
    rows_of,
)
from longrun.launch.local import select_stages
from longrun.launch.local_jobs import QUIET
from longrun.launch.stage_jobs import idle_options
from longrun.launch.verbs import start_stages

NEWEST = 30
"""Experiments that ``status`` shows without --all."""
POLL_SECONDS = 0.5
log = logging.getLogger(__name__)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[name=value ...]", help="Settings, as in train.max_steps=100."),
]
Replace = Annotated[
    bool, typer.Option("--replace", help="Delete stale output of these stages and make it anew.")
]
Place = Annotated[str, typer.Argument(help="Name of an experiment, a run folder, or a recipe.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to ``app``."""
    for command in (run, demo, status, logs, cancel, schema):
        app.command()(command)


def run(  # noqa: PLR0913, PLR0917 - one argument per option
    recipe: Annotated[
        Path, typer.Argument(help="Recipe file (YAML), or the name of one that ships: demo.")
    ],
    settings: Overrides = None,
    only: Annotated[str | None, typer.Option(help="Run only these stages (a,b).")] = None,
    first: Annotated[str | None, typer.Option("--from", help="Start at this stage.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Stop after this stage.")] = None,
    cluster: ClusterName = None,
    config_dir: ConfigDir = None,
    expname: Annotated[
        str | None, typer.Option(help="Name to find it by; null: the recipe's.")
    ] = None,
    run_after: RunAfter = None,
    num_training_jobs: Annotated[
        int,
        typer.Option("--num_training_jobs", min=1, help="Jobs in a chain for each training."),
    ] = 1,
    dry_run: DryRun = False,
    replace: Replace = False,
) -> None:
    """Run a recipe: every stage that is not finished, in order, here or on a cluster."""
    place = choose_cluster(cluster, config_dir)
    # In quotes: a name such as 2024 is text.
    overrides = [*(settings or []), *([f"name={json.dumps(expname)}"] if expname else [])]
    loaded = load_recipe(find_recipe(recipe), overrides, place.job_dir)
    launch = Launch(
        cluster=place,
        run_after=names_in(run_after),
        num_training_jobs=num_training_jobs,
        replace=replace,
    )
    run_stages(loaded, select_stages(loaded, only, first, last), launch, dry_run=dry_run)


def demo(settings: Overrides = None, dry_run: DryRun = False, replace: Replace = False) -> None:
    """Show the whole pipeline on this computer's CPU with generated data, in minutes."""
    loaded = load_recipe(find_recipe("demo"), settings or [])
    launch = Launch(cluster=Cluster(executor="local"), replace=replace)
    run_stages(loaded, list(loaded.stages), launch, dry_run=dry_run)


def status(
    place: Annotated[
        str | None, typer.Argument(help="As in `logs`; nothing or a folder of runs: a list.")
    ] = None,
    cluster: ClusterName = None,
    config_dir: ConfigDir = None,
    everything: Annotated[bool, typer.Option("--all", help="Old experiments as well.")] = False,
) -> None:
    """Show experiments, or the jobs of one: done, running, queued, stale, failed, ..."""
    chosen = choose_cluster(cluster, config_dir)
    job_dir, place = chosen.job_dir, place_outside(chosen, place)
    console = make_console()
    found = find_place(job_dir, place)
    if found is not None:
        rows, silent = rows_of(found)
        print_rows(console, rows, silent)
        return
    folder = job_dir if place is None else Path(place)
    print_experiments(console, *list_experiments(folder, None if everything else NEWEST))


def logs(
    place: Place,
    stage: Annotated[str | None, typer.Argument(help="Name of the stage or job.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    part: Annotated[int | None, typer.Option(help="Task of an array, from 1.")] = None,
    cluster: ClusterName = None,
    config_dir: ConfigDir = None,
) -> None:
    """Print the log of one stage of a run, or of one job."""
    chosen = choose_cluster(cluster, config_dir)
    job = find_job(chosen.job_dir, place_outside(chosen, place) or place, stage)
    path = job.log_of(part)
    if not path.exists() and not follow:
        look = f"longrun status {shlex.quote(place)}{chosen.option}"
        raise ConfigError(f"{path}: {job.name} has not been started; see `{look}`")
    position = 0
    while True:
        live = follow and job.is_live()
        if path.exists():
            with open(path, errors="replace") as file:
                file.seek(position)
                print(file.read(), end="", flush=True)
                position = file.tell()
        if not live:
            return
        time.sleep(POLL_SECONDS)


def cancel(
    place: Place,
    stage: Annotated[str | None, typer.Argument(help="Only this one and what follows it.")] = None,
    cluster: ClusterName = None,
    config_dir: ConfigDir = None,
) -> None:
    """End the jobs of an experiment that wait or run; what is done stays."""
    chosen = choose_cluster(cluster, config_dir)
    names = cancel_jobs(chosen.job_dir, place_outside(chosen, place) or place, stage)
    print(f"cancelled: {', '.join(names)}" if names else f"{place}: nothing waits or runs")


def schema() -> None:
    """Print the JSON schema of recipes, for editors that complete and check YAML."""
    print(json.dumps(recipe_schema(), indent=2))


def run_stages(recipe: Recipe, stages: list[StagePlan], launch: Launch, *, dry_run: bool) -> None:
    """Run or submit stages and show it, or only print what would run."""
    console = make_console()
    slurm = launch.cluster.executor == "slurm"
    if dry_run:
        print_graph(console, recipe, stages)
        if slurm:
            print_scripts(render_recipe(recipe, stages, launch))
        return
    if slurm:
        jobs = start_stages(recipe, stages, launch, QUIET)
        print_submitted(console, recipe.name, jobs, launch.cluster.option)
        return
    given = {"num_training_jobs": launch.num_training_jobs > 1}
    for note in idle_options(launch.cluster, given):
        log.info("%s: %s", recipe.name, note)
    began = time.monotonic()
    with RunScreen(console, stages) as screen:
        start_stages(recipe, stages, launch, screen.watcher())
    print_results(console, recipe, time.monotonic() - began)
