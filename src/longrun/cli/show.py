"""What a person sees while a recipe runs and when it is done.

On a terminal: the newest lines of the log above one bar. Elsewhere: plain lines, each with the
name of its stage. Colour only on terminals; rich sees to that.
"""

import time
from pathlib import Path
from typing import Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from longrun.config.evaluation import EvaluateConfig
from longrun.config.recipe import Recipe, StagePlan
from longrun.formats.stages.manifest import MANIFEST_NAME, Manifest
from longrun.formats.stages.progress import format_seconds
from longrun.formats.stages.run_state import StageRow
from longrun.formats.terminal import VisibleConsole
from longrun.launch.graph import Submitted
from longrun.launch.inspect_jobs import ExperimentRow
from longrun.launch.local_jobs import Watcher
from longrun.launch.run_folder import stage_rows

PLAIN_WIDTH = 160
"""Columns of tables in files and pipes, where no terminal says how wide it is."""


def make_console() -> Console:
    """Make the console of this process: the terminal's width, or wide lines anywhere else."""
    console = VisibleConsole()
    return console if console.is_terminal else VisibleConsole(width=PLAIN_WIDTH)


class RunScreen:
    """Shows a running recipe; use as a context manager."""

    def __init__(self, console: Console, stages: list[StagePlan]) -> None:
        """Prepare for ``stages``; nothing is shown yet."""
        self._console = console
        self._place = {stage.name: index + 1 for index, stage in enumerate(stages)}
        self._verbs = {stage.name: stage.verb for stage in stages}
        self._folders = {stage.name: stage.config.output_dir for stage in stages}
        self._tasks: dict[str, TaskID] = {}
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        """Start the live bar."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the live bar."""
        self._bar.stop()

    def watcher(self) -> Watcher:
        """Return the callbacks that the runner calls."""
        return Watcher(self._begins, self._progresses, self._prints, self._ends)

    def _begins(self, stage: str) -> None:
        self._console.print(self._label(stage), style="bold", highlight=False)
        self._tasks[stage] = self._bar.add_task(stage, total=None, figures="")

    def _progresses(self, stage: str, state: dict[str, Any]) -> None:
        self._bar.update(
            self._tasks[stage],
            total=state["total"],
            completed=state["done"],
            figures=state["figures"],
        )

    def _prints(self, stage: str, line: str) -> None:
        said = line.removeprefix(f"{self._verbs[stage]}: ")  # the stage's name says it already
        self._console.print(Text.assemble("  ", (stage, "dim"), " ", said))

    def _ends(self, stage: str, outcome: str) -> None:
        if stage in self._tasks:
            self._bar.remove_task(self._tasks.pop(stage))
        if outcome == "done":
            seconds = Manifest.read(self._folders[stage]).wall_seconds
            outcome = f"done in {format_seconds(seconds)}"
        style = "red" if outcome in ("failed", "cancelled") else "green"
        self._console.print(f"{self._label(stage)}: {outcome}", style=style, highlight=False)

    def _label(self, stage: str) -> str:
        return f"({self._place[stage]}/{len(self._place)}) {stage}"


def make_line_watcher() -> Watcher:
    """Return callbacks that print what a job prints, and nothing else."""

    def prints(name: str, line: str) -> None:
        print(line, flush=True)

    return Watcher(_nothing, _nothing, prints, _nothing)


def _nothing(*_: object) -> None:
    """Show nothing."""


def print_graph(console: Console, recipe: Recipe, stages: list[StagePlan]) -> None:
    """Print what would run, in order, with the reason to run or to leave each stage alone."""
    table = Table(title=f"{recipe.name}: {recipe.output_dir}/", title_justify="left")
    for column in ("stage", "verb", "state", "after"):
        table.add_column(column)
    rows = {row.name: row for row in stage_rows(recipe)}
    for stage in stages:
        row = rows[stage.name]
        state = f"{row.state}: {row.figures}" if row.state == "stale" else row.state
        table.add_row(stage.name, stage.verb, state, ", ".join(stage.after))
    console.print(table)


def print_results(console: Console, recipe: Recipe, seconds: float) -> None:
    """Print the accuracies and the place of the report of a finished run."""
    for folder in _last_evaluations(recipe):
        _print_accuracy(console, folder)
    console.print(f"{recipe.name} finished in {format_seconds(seconds)}: {recipe.output_dir}")
    for stage in recipe.stages:
        page = stage.config.output_dir / "report.html"
        if stage.verb == "report" and page.exists():
            console.print(f"report: {page.resolve()}", soft_wrap=True, highlight=False)


def _last_evaluations(recipe: Recipe) -> list[Path]:
    """Folders of the finished evaluations but those whose solutions are all in a later one."""
    done = [
        (stage.config.output_dir, set(stage.config.predictions))
        for stage in recipe.stages
        if isinstance(stage.config, EvaluateConfig)
        and (stage.config.output_dir / MANIFEST_NAME).exists()
    ]
    return [
        folder
        for place, (folder, solutions) in enumerate(done)
        if not any(solutions <= later for _, later in done[place + 1 :])
    ]


def _print_accuracy(console: Console, folder: Path) -> None:
    from longrun.evaluation.scores.tables import accuracy_table
    from longrun.formats.predictions import read_summary

    console.print(accuracy_table(read_summary(folder).rows))


def print_scripts(scripts: list[tuple[Path, str]]) -> None:
    """Print scripts as they would be written, each under its path."""
    for path, text in scripts:
        print(f"--- {path}\n{text}")


def print_submitted(console: Console, name: str, jobs: list[Submitted], option: str) -> None:
    """Print what became of every stage that was to be submitted, and where to look.

    ``option``: what a command line needs to find the cluster.
    """
    table = Table(title=f"experiment {name}", title_justify="left")
    for column in ("stage", "outcome", "job"):
        table.add_column(column)
    for job in jobs:
        table.add_row(job.name, job.outcome, ", ".join(job.ids))
    console.print(table)
    console.print(f"longrun status {name}{option}", soft_wrap=True, highlight=False)


def print_rows(console: Console, rows: list[StageRow], silent: str) -> None:
    """Print the jobs of one experiment; ``silent``: why the cluster could not be asked."""
    from longrun.report.tables import stage_table

    console.print(stage_table(rows))
    _print_silence(console, silent)


def print_experiments(console: Console, rows: list[ExperimentRow], total: int, silent: str) -> None:
    """Print one line per experiment, the newest first."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("experiment", "started", "cluster", "jobs", "folder"):
        table.add_column(column, overflow="fold")
    for row in rows:
        states = ", ".join(f"{count} {state}" for state, count in row.counts.items())
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.started))
        table.add_row(row.name, started, row.cluster, states, str(row.folder))
    console.print(table)
    if len(rows) < total:
        console.print(f"{total - len(rows)} older ones: longrun status --all", highlight=False)
    _print_silence(console, silent)


def _print_silence(console: Console, silent: str) -> None:
    if silent:
        console.print(f"the cluster was not asked: {silent}", highlight=False)
