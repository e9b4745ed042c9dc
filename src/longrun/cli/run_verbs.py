"""The verbs about whole runs: run, demo, status, logs, schema."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from longrun.cli.show import RunScreen, make_console, print_graph, print_results
from longrun.config.recipe import Recipe, load_named_recipe, load_recipe, recipe_schema
from longrun.errors import ConfigError
from longrun.launch.local import run_local, select_stages
from longrun.launch.run_folder import RECIPE_NAME, job_folder, open_run, stage_rows

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[name=value ...]", help="Settings, as in train.max_steps=100."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the graph and stop.")]
Replace = Annotated[
    bool, typer.Option("--replace", help="Delete stale output of these stages and make it anew.")
]
RunPlace = Annotated[Path, typer.Argument(help="A run folder, a recipe, or a folder of runs.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to ``app``."""
    for command in (run, demo, status, logs, schema):
        app.command()(command)


def run(
    recipe: Annotated[Path, typer.Argument(help="Recipe file (YAML).")],
    settings: Overrides = None,
    only: Annotated[str | None, typer.Option(help="Run only these stages (a,b).")] = None,
    first: Annotated[str | None, typer.Option("--from", help="Start at this stage.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Stop after this stage.")] = None,
    dry_run: DryRun = False,
    replace: Replace = False,
) -> None:
    """Run a recipe: every stage that is not finished, in order."""
    loaded = load_recipe(recipe, settings or [])
    _run(loaded, (only, first, last), dry_run=dry_run, replace=replace)


def demo(settings: Overrides = None, dry_run: DryRun = False, replace: Replace = False) -> None:
    """Show the whole pipeline on this computer's CPU with generated data, in minutes."""
    loaded = load_named_recipe("demo", settings or [])
    _run(loaded, (None, None, None), dry_run=dry_run, replace=replace)


def status(place: RunPlace = Path("runs")) -> None:
    """Show the stages of a run: done, running, stale, waiting, failed, interrupted."""
    from longrun.report.tables import stage_table

    console = make_console()
    for recipe in _runs_in(place):
        console.print(stage_table(stage_rows(recipe)))


def logs(
    place: RunPlace,
    stage: Annotated[str, typer.Argument(help="Name of the stage.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more.")] = False,
) -> None:
    """Print the log of one stage of a run."""
    recipe = open_run(place)
    path = job_folder(recipe, recipe.stage(stage)) / "log.txt"
    if not path.exists():
        raise ConfigError(f"{path}: stage {stage} has not been started; see `longrun status`")
    with open(path, errors="replace") as file:
        while True:
            print(file.read(), end="", flush=True)
            if not follow:
                return
            time.sleep(0.5)


def schema() -> None:
    """Print the JSON schema of recipes, for editors that complete and check YAML."""
    print(json.dumps(recipe_schema(), indent=2))


def _run(
    recipe: Recipe,
    selection: tuple[str | None, str | None, str | None],
    *,
    dry_run: bool,
    replace: bool,
) -> None:
    stages = select_stages(recipe, *selection)
    console = make_console()
    if dry_run:
        print_graph(console, recipe, stages)
        return
    began = time.monotonic()
    with RunScreen(console, stages) as screen:
        run_local(recipe, stages, screen.watcher(), replace=replace)
    print_results(console, recipe, time.monotonic() - began)


def _runs_in(place: Path) -> list[Recipe]:
    if place.is_file() or (place / RECIPE_NAME).exists():
        return [open_run(place)]
    found = sorted(place.glob(f"*/{RECIPE_NAME}")) if place.is_dir() else []
    if not found:
        raise ConfigError(f"{place}: no runs here; start one with `longrun run RECIPE`")
    return [open_run(path.parent) for path in found]
