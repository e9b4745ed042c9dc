"""Small tables for the terminal: rows in, a ``rich`` table out.

It prints nothing and decides no colours for files: rich leaves styles out where there is no
terminal.
"""

from collections.abc import Iterable

from rich import box
from rich.table import Table
from rich.text import Text

from longrun.formats.stages.progress import format_seconds
from longrun.formats.stages.run_state import StageRow, State

_STYLES: dict[State, str] = {
    "done": "green",
    "running": "bold cyan",
    "queued": "cyan",
    "stale": "yellow",
    "waiting": "dim",
    "failed": "bold red",
    "cancelled": "red",
    "interrupted": "yellow",
}


def stage_table(rows: Iterable[StageRow]) -> Table:
    """Return one line per stage: name, verb, state, figures, wall time and folder.

    Texts are shown as they are, never read as markup.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("verb", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("figures", overflow="fold", ratio=1)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("folder", overflow="fold")
    for row in rows:
        table.add_row(
            Text(row.name, style="bold"),
            Text("" if row.verb == row.name else row.verb),
            Text(row.state, style=_STYLES[row.state]),
            Text(row.figures),
            Text("" if row.wall_seconds is None else format_seconds(row.wall_seconds)),
            Text(str(row.folder), style="dim"),
        )
    return table
