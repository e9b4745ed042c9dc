"""The table of stages: everything in it, markup never read, colour only on terminals."""

from io import StringIO
from pathlib import Path

from rich.console import Console

from longrun.formats.stages.run_state import StageRow
from longrun.report.tables import stage_table

ROWS = [
    StageRow("documents", "prepare", "done", "12.8k documents", 75.0, Path("runs/a/documents")),
    StageRow("train", "train", "running", "40 % of 600 steps", None, Path("runs/a/train")),
    StageRow("scores", "evaluate", "failed", "no [bold]file[/] here", None, Path("runs/a/s")),
]


def show(*, terminal: bool) -> str:
    file = StringIO()
    console = Console(
        file=file, width=120, force_terminal=terminal, _environ={"TERM": "xterm-256color"}
    )
    console.print(stage_table(ROWS))
    return file.getvalue()


def test_every_stage_has_a_line_with_its_state_figures_and_time() -> None:
    lines = [" ".join(line.split()) for line in show(terminal=False).splitlines()]
    assert "documents prepare done 12.8k documents 1 min 15 s runs/a/documents" in lines
    assert "train running 40 % of 600 steps runs/a/train" in lines


def test_texts_are_never_read_as_markup() -> None:
    assert "no [bold]file[/] here" in show(terminal=False)


def test_colour_is_for_terminals_only() -> None:
    assert "\x1b[" not in show(terminal=False)
    assert "\x1b[" in show(terminal=True)
