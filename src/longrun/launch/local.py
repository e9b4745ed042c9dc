"""Run a recipe on this machine: one process per stage, in order, each in a session of its own.

A stage is started by name (``python -m longrun VERB config.yaml``), so this module never imports
one. What a stage prints goes to its log; its progress is read from a file it keeps. Ctrl-C asks
the stage to stop (it saves what it can), a second Ctrl-C ends it; the same command continues.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from longrun.config.recipe import Recipe, StagePlan
from longrun.errors import LaunchError
from longrun.formats.atomic import write_text
from longrun.formats.progress import PROGRESS_VARIABLE
from longrun.launch.run_folder import (
    clear_output,
    job_folder,
    last_line,
    save_recipe,
    stage_row,
    stage_rows,
)

POLL_SECONDS = 0.1
STOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Watcher:
    """Called while a recipe runs; the command line shows, a test records."""

    begins: Callable[[StagePlan], None]
    progresses: Callable[[StagePlan, dict[str, object]], None]
    prints: Callable[[StagePlan, str], None]
    ends: Callable[[StagePlan, str], None]
    """Stage and what became of it: ``done``, ``up to date``."""


def select_stages(
    recipe: Recipe, only: str | None, first: str | None, last: str | None
) -> list[StagePlan]:
    """Choose the stages of ``--only``, ``--from`` and ``--to``; all of them by default.

    Raises:
        ConfigError: a name is not a stage of the recipe.
    """
    if only is not None:
        return [recipe.stage(name) for name in only.split(",")]
    stages = list(recipe.stages)
    start = 0 if first is None else stages.index(recipe.stage(first))
    end = len(stages) if last is None else stages.index(recipe.stage(last)) + 1
    return stages[start:end]


def run_local(recipe: Recipe, stages: list[StagePlan], watcher: Watcher, *, replace: bool) -> None:
    """Run ``stages`` one after another; finished ones are left alone.

    Raises:
        LaunchError: a stage failed or was interrupted; the message holds its last line and log.
    """
    save_recipe(recipe)
    # Looking at a stage reads its inputs, so each is looked at once, and again only after a change.
    done = {row.name for row in stage_rows(recipe) if row.state == "done"}
    changed: set[str] = set()
    for stage in stages:
        if stage.name in done and changed.isdisjoint(stage.after):
            watcher.ends(stage, "up to date")
            continue
        row = stage_row(recipe, stage, upstream_done=done.issuperset(stage.after))
        if row.state == "stale" and replace:
            clear_output(stage)
        watcher.begins(stage)
        _run_stage(recipe, stage, watcher)
        watcher.ends(stage, "done")
        done.add(stage.name)
        changed.add(stage.name)


def _run_stage(recipe: Recipe, stage: StagePlan, watcher: Watcher) -> None:
    job = job_folder(recipe, stage)
    job.mkdir(parents=True, exist_ok=True)
    (job / "exit").unlink(missing_ok=True)
    stage.config.save(job / "config.yaml")
    log = job / "log.txt"
    with open(log, "ab") as output:
        start = output.tell()
        command = [sys.executable, "-m", "longrun", stage.verb, str(job / "config.yaml")]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, PROGRESS_VARIABLE: str(job / "progress.json")},
            start_new_session=True,
        )
    try:
        code = _watch(process, stage, job, start, watcher)
    except KeyboardInterrupt:
        code = _stop(process, stage)
    finally:
        _end_session(process)
    write_text(job / "exit", f"{code}\n")
    if code:
        raise LaunchError(f"stage {stage.name} failed: {_reason(log, code)} (log: {log})")


def _watch(
    process: "subprocess.Popen[bytes]", stage: StagePlan, job: Path, start: int, watcher: Watcher
) -> int:
    position, shown = start, ""
    while True:
        code = process.poll()
        position = _forward(job / "log.txt", position, stage, watcher, everything=code is not None)
        state = _read(job / "progress.json")
        if state and state != shown:
            shown = state
            watcher.progresses(stage, json.loads(state))
        if code is not None:
            return code
        time.sleep(POLL_SECONDS)


def _forward(
    log: Path, position: int, stage: StagePlan, watcher: Watcher, *, everything: bool
) -> int:
    """Pass on the complete lines of ``log`` after ``position``; return the new position."""
    with open(log, "rb") as file:
        file.seek(position)
        new = file.read()
    end = len(new) if everything else new.rfind(b"\n") + 1
    for line in new[:end].decode(errors="replace").splitlines():
        watcher.prints(stage, line)
    return position + end


def _stop(process: "subprocess.Popen[bytes]", stage: StagePlan) -> int:
    """Ask the stage to stop and wait; a second Ctrl-C ends it at once."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        process.kill()
        process.wait()
    raise LaunchError(f"stage {stage.name} interrupted; run the same command to continue")


def _end_session(process: "subprocess.Popen[bytes]") -> None:
    """End whatever the stage left running: its session is its own, so nobody else is hit."""
    if process.poll() is None:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _reason(log: Path, code: int) -> str:
    if code < 0:
        return f"ended by signal {signal.Signals(-code).name}"
    return last_line(log).removeprefix("longrun: ") or f"exit code {code}"
