"""What a person sees while a recipe runs and when it is done.

On a terminal: the newest lines of the log above one bar. Elsewhere: plain lines, each with the
name of its stage. Colour only on terminals; rich sees to that.
"""

from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from longrun.config.recipe import Recipe, StagePlan
from longrun.formats.manifest import MANIFEST_NAME, Manifest
from longrun.formats.progress import format_seconds
from longrun.launch.local import Watcher
from longrun.launch.run_folder import stage_rows

PLAIN_WIDTH = 160
"""Columns of tables in files and pipes, where no terminal says how wide it is."""


def make_console() -> Console:
    """Make the console of this process: the terminal's width, or wide lines anywhere else."""
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)


class RunScreen:
    """Shows a running recipe; use as a context manager."""

    def __init__(self, console: Console, stages: list[StagePlan]) -> None:
        """Prepare for ``stages``; nothing is shown yet."""
        self._console = console
        self._place = {stage.name: index + 1 for index, stage in enumerate(stages)}
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[figures]}"),
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

    def _begins(self, stage: StagePlan) -> None:
        self._console.print(f"[bold]{self._label(stage)}[/]", highlight=False)
        self._task = self._bar.add_task(stage.name, total=None, figures="")

    def _progresses(self, stage: StagePlan, state: dict[str, Any]) -> None:
        self._bar.update(
            self._task,
            total=state["total"],
            completed=state["done"],
            figures=state["figures"],
        )

    def _prints(self, stage: StagePlan, line: str) -> None:
        self._console.print(f"  [dim]{stage.name}[/] {escape(line)}", highlight=False)

    def _ends(self, stage: StagePlan, outcome: str) -> None:
        if outcome == "done":
            self._bar.remove_task(self._task)
            seconds = Manifest.read(stage.config.output_dir).wall_seconds
            outcome = f"done in {format_seconds(seconds)}"
        line = f"{self._label(stage)}: {outcome}"
        self._console.print(f"[green]{escape(line)}[/]", highlight=False)

    def _label(self, stage: StagePlan) -> str:
        return f"({self._place[stage.name]}/{len(self._place)}) {stage.name}"


def print_graph(console: Console, recipe: Recipe, stages: list[StagePlan]) -> None:
    """Print what would run, in order, with the reason to run or to leave each stage alone."""
    table = Table(title=f"{recipe.name}: {recipe.output_dir}/", title_justify="left")
    for column in ("stage", "verb", "state", "after"):
        table.add_column(column)
    rows = {row.name: row for row in stage_rows(recipe)}
    for stage in stages:
        row = rows[stage.name]
        state = f"{row.state}: {row.figures}" if row.state == "stale" else row.state
        table.add_row(*map(escape, (stage.name, stage.verb, state, ", ".join(stage.after))))
    console.print(table)


def print_results(console: Console, recipe: Recipe, seconds: float) -> None:
    """Print the accuracies and the place of the report of a finished run."""
    for stage in recipe.stages:
        folder = stage.config.output_dir
        if stage.verb == "evaluate" and (folder / MANIFEST_NAME).exists():
            _print_accuracy(console, folder)
    console.print(f"{recipe.name} finished in {format_seconds(seconds)}: {recipe.output_dir}")
    for stage in recipe.stages:
        page = stage.config.output_dir / "report.html"
        if stage.verb == "report" and page.exists():
            console.print(f"report: {page.resolve()}", soft_wrap=True, highlight=False)


def _print_accuracy(console: Console, folder: Path) -> None:
    from longrun.evaluate.tables import accuracy_table
    from longrun.formats.predictions import read_summary

    console.print(accuracy_table(read_summary(folder).rows))
