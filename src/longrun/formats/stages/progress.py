"""Progress of long work: a bar on a terminal, a line every few seconds anywhere else.

A stage says how much there is and how far it is; it never prints. Every report carries the rate
and the time left. When ``LONGRUN_PROGRESS`` names a file, the same figures are kept there, so
that ``longrun status`` and a parent process can show them.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars

from longrun.formats.stages.atomic import write_text
from longrun.formats.terminal import VisibleConsole

PROGRESS_VARIABLE = "LONGRUN_PROGRESS"
LINE_SECONDS = 10.0
_FILE_SECONDS = 1.0
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Progress:
    """Counts work done; ``show`` is called with one plain line from time to time."""

    label: str
    total: float
    unit: str
    bars: Bars | None
    file: Path | None
    resumed: float = 0.0
    """Done by an earlier run."""
    worked: float = 0.0
    """Done by this run."""
    note: str = ""
    began: float = 0.0
    first_worked: float | None = None
    """``worked`` at the first report, at ``first_at``."""
    first_at: float = 0.0
    line_at: float = 0.0
    file_at: float = 0.0

    @property
    def done(self) -> float:
        """Units done by now, whoever did them."""
        return self.resumed + self.worked

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Count ``amount`` units done; ``note`` (loss, accuracy) is shown beside the rate."""
        self.worked += amount
        self.note = note or self.note
        now = time.monotonic()
        if self.first_worked is None:
            self.first_worked, self.first_at = self.worked, now
        if self.bars is not None:
            self.bars.update(self.bars.task_ids[0], completed=self.done, figures=self.figures())
        elif now - self.line_at >= LINE_SECONDS:
            self.line_at = now
            log.info("%s", self.line())
        if self.file is not None and now - self.file_at >= _FILE_SECONDS:
            self.file_at = now
            self._keep()

    def skip(self, amount: float) -> None:
        """Count ``amount`` units that an earlier run did."""
        self.resumed += amount

    def figures(self) -> str:
        """Rate, time left and the note: ``340 records/s, 11 s left, loss 0.31``."""
        seconds = max(time.monotonic() - self.began, 1e-9)
        rate = self.worked / seconds
        shown = f"{format_count(rate)} {self.unit}/s, {self._time_left()} left"
        return f"{shown}, {self.note}" if self.note else shown

    def _time_left(self) -> str:
        """Judge by what came after the first report: what came before held start and warm-up."""
        if self.done >= self.total:
            return format_seconds(0)
        seconds = time.monotonic() - self.first_at
        since = 0.0 if self.first_worked is None else self.worked - self.first_worked
        return format_seconds((self.total - self.done) * seconds / since) if since > 0 else "?"

    def line(self) -> str:
        """One plain line: ``prepare: 1.2k/5k records (24 %), 340 records/s, 11 s left``."""
        share = 100 * self.done / self.total if self.total else 100.0
        counts = f"{format_count(self.done)}/{format_count(self.total)} {self.unit}"
        return f"{self.label}: {counts} ({share:.0f} %), {self.figures()}"

    def _keep(self) -> None:
        if self.file is not None:
            state = {
                "label": self.label,
                "done": self.done,
                "total": self.total,
                "unit": self.unit,
                "figures": self.figures(),
                "time": time.time(),
            }
            write_text(self.file, json.dumps(state))


@contextmanager
def show_progress(label: str, total: float, unit: str, done: float = 0.0) -> Iterator[Progress]:
    """Report progress of ``total`` ``unit`` of work, ``done`` of it by an earlier run."""
    kept = os.environ.get(PROGRESS_VARIABLE)
    bars = _bars(label, total) if sys.stderr.isatty() else None
    now = time.monotonic()
    progress = Progress(
        label=label,
        total=total,
        unit=unit,
        bars=bars,
        file=Path(kept) if kept else None,
        resumed=done,
        began=now,
        line_at=now,
    )
    if bars is None:
        yield progress
        if progress.worked:
            log.info("%s", progress.line())
    else:
        with bars:
            yield progress


def format_seconds(seconds: float) -> str:
    """Write a duration the way people read it.

    >>> [format_seconds(value) for value in (0.4, 75, 7260, 180000)]
    ['0 s', '1 min 15 s', '2 h 01 min', '2 d 02 h']
    """
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def format_count(value: float) -> str:
    """Write a count with at most three figures and a unit prefix.

    >>> [format_count(value) for value in (0.25, 7, 1234, 5_485_147, 36.7e9)]
    ['0.25', '7', '1.23k', '5.49M', '36.7G']
    """
    for bound, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= bound:
            return f"{value / bound:.3g}{prefix}"
    return f"{value:.3g}"


def _bars(label: str, total: float) -> Bars:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[figures]}", markup=False),
    )
    bars = Bars(*columns, console=VisibleConsole(stderr=True), transient=False)
    bars.add_task(label, total=total, figures="")
    return bars
