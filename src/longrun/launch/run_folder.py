"""The folder of a run: the resolved recipe, and one job folder per stage with log and exit code.

    runs/demo/recipe.yaml                 what runs, every setting filled in
    runs/demo/<stage>/                    output of the stage (its manifest says it is finished)
    runs/demo/jobs/<stage>/log.txt        everything the stage printed, all attempts
    runs/demo/jobs/<stage>/progress.json  how far it is; for the other files see ``jobs``

The truth about a stage is on disk: its manifest, its lock, its exit file. Nothing is remembered.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from longrun.config.plain_yaml import dump_yaml
from longrun.config.recipe import Recipe, StagePlan, load_recipe
from longrun.errors import ConfigError, InputError
from longrun.formats.stages.atomic import write_text
from longrun.formats.stages.damage import check_sizes
from longrun.formats.stages.manifest import MANIFEST_NAME, STARTED_NAME, Manifest
from longrun.formats.stages.progress import format_count
from longrun.formats.stages.run_state import StageRow, State
from longrun.formats.stages.stage import compare, identify, is_locked
from longrun.launch.experiment import JOBS_FOLDER
from longrun.launch.jobs import JobState, state_of

RECIPE_NAME = "recipe.yaml"
NOTHING_QUEUED: Mapping[str, JobState] = MappingProxyType({})
"""No scheduler has jobs of the run."""


def save_recipe(recipe: Recipe) -> Path:
    """Write the resolved recipe into its run folder and return the file."""
    recipe.output_dir.mkdir(parents=True, exist_ok=True)
    path = recipe.output_dir / RECIPE_NAME
    write_text(path, dump_yaml(recipe.resolved))
    return path


def open_run(place: Path) -> Recipe:
    """Read the recipe of a run folder, or of a recipe file.

    Raises:
        ConfigError: ``place`` is neither.
    """
    path = place / RECIPE_NAME if place.is_dir() else place
    if not path.exists():
        raise ConfigError(f"{place}: no run here ({RECIPE_NAME} is missing)")
    return load_recipe(path, [])


def job_folder(recipe: Recipe, stage: StagePlan) -> Path:
    """Folder of log, exit code and progress of ``stage``."""
    return recipe.output_dir / JOBS_FOLDER / stage.name


def stage_rows(recipe: Recipe, in_queue: Mapping[str, JobState] = NOTHING_QUEUED) -> list[StageRow]:
    """Look at every stage of a run on disk, in running order; ``in_queue``: see ``jobs``."""
    rows: list[StageRow] = []
    fresh: dict[str, bool] = {}
    for stage in recipe.stages:
        upstream_done = all(fresh[name] for name in stage.after)
        row = stage_row(recipe, stage, in_queue, upstream_done=upstream_done)
        fresh[stage.name] = row.state == "done"
        rows.append(row)
    return rows


def clear_output(stage: StagePlan) -> None:
    """Delete the output of ``stage``: only what a stage wrote, never a folder of other files.

    Raises:
        InputError: the folder is not the output of a stage.
    """
    folder = stage.config.output_dir
    if not folder.exists():
        return
    ours = any((folder / name).exists() for name in (MANIFEST_NAME, STARTED_NAME))
    if not ours and any(folder.iterdir()):
        raise InputError.at(folder, None, "is not the output of a stage; it was not deleted")
    shutil.rmtree(folder)


def clear_stale(stage: StagePlan) -> None:
    """Delete the output of ``stage`` if it is of other settings or inputs and nobody works on it.

    Raises:
        InputError: an input does not exist.
    """
    folder = stage.config.output_dir
    if not any((folder / name).exists() for name in (MANIFEST_NAME, STARTED_NAME)):
        return
    if not is_locked(folder) and compare(folder, identify(stage.verb, stage.config)):
        clear_output(stage)


def stage_row(
    recipe: Recipe, stage: StagePlan, in_queue: Mapping[str, JobState], *, upstream_done: bool
) -> StageRow:
    """Look at one stage on disk; ``upstream_done``: the stages it reads from are done."""
    folder = stage.config.output_dir
    state, figures = _state(recipe, stage, in_queue, upstream_done=upstream_done)
    wall = Manifest.read(folder).wall_seconds if state == "done" else None
    return StageRow(stage.name, stage.verb, state, figures, wall, folder)


def _state(
    recipe: Recipe, stage: StagePlan, in_queue: Mapping[str, JobState], *, upstream_done: bool
) -> tuple[State, str]:
    folder, job = stage.config.output_dir, job_folder(recipe, stage)
    launched = state_of(job, in_queue)
    if is_locked(folder) or launched.state == "running":
        return "running", _progress(job)
    if launched.live:
        return launched.state, launched.reason
    unfinished = launched.state in ("failed", "cancelled", "interrupted")
    if not any((folder / name).exists() for name in (MANIFEST_NAME, STARTED_NAME)):
        if unfinished:
            return launched.state, launched.reason
        return "waiting", "" if upstream_done else f"after {', '.join(stage.after)}"
    changed = ["an earlier stage will run again"]
    if upstream_done:
        changed = _changes(stage)
    if changed:
        return "stale", "; ".join(changed)
    if (folder / MANIFEST_NAME).exists():
        return "done", _counts(Manifest.read(folder))
    if launched.state in ("failed", "cancelled"):
        return launched.state, launched.reason
    return "interrupted", _progress(job)


def _changes(stage: StagePlan) -> list[str]:
    """Say why the output of ``stage``, finished or not, cannot stay as it is; empty: it can."""
    folder = stage.config.output_dir
    try:
        changed = compare(folder, identify(stage.verb, stage.config))
        if not changed and (folder / MANIFEST_NAME).exists():
            check_sizes(folder)
    except InputError as error:
        return [str(error)]
    return changed


def _counts(manifest: Manifest) -> str:
    return ", ".join(
        f"{format_count(value)} {name.replace('_', ' ')}"
        for name, value in list(manifest.counts.items())[:3]
    )


def _progress(job: Path) -> str:
    try:
        state = json.loads((job / "progress.json").read_text())
    except (FileNotFoundError, ValueError):
        return ""
    share = 100 * state["done"] / state["total"] if state["total"] else 0.0
    return f"{share:.0f} % of {format_count(state['total'])} {state['unit']}, {state['figures']}"
