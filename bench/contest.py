"""Run contenders one after the other, each in a fresh process with a time limit.

A contender is a command that writes one JSON object to a path. Whatever happens to it, the contest
goes on and keeps what was measured so far. An object with the key ``left_out`` says why it cannot
run here (a missing package, another device), which is a result and not a failure.
"""

import json
import os
import platform
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LOG_TAIL = 2000
"""Characters of a failed contender's output that are kept, verbatim."""


@dataclass(frozen=True)
class Outcome:
    """What became of one contender."""

    name: str
    status: str
    """ok, failed, timed out, or left out."""
    seconds: float
    """Wall time of its process."""
    measured: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    """Its last output, or why it was left out; empty when ok."""

    @property
    def ok(self) -> bool:
        """Say whether it finished and measured something."""
        return self.status == "ok"


def run(
    name: str,
    command: Sequence[str],
    result: Path,
    *,
    cap_seconds: float,
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Run ``command`` in the folder of the benchmarks and read the ``result`` that it wrote."""
    result.unlink(missing_ok=True)
    log = result.with_suffix(".log")
    began = time.monotonic()
    with log.open("w") as output:
        child = subprocess.Popen(
            command,
            cwd=HERE,
            env={**os.environ, **(environment or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = child.wait(cap_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            code = None
    seconds = time.monotonic() - began
    measured = json.loads(result.read_text()) if result.exists() else {}
    tail = log.read_text(errors="replace")[-LOG_TAIL:]
    if "left_out" in measured:
        return Outcome(name, "left out", seconds, problem=measured["left_out"])
    if code is None:
        return Outcome(name, "timed out", seconds, measured, f"after {cap_seconds:.0f} s: {tail}")
    if code != 0 or not measured:
        return Outcome(name, "failed", seconds, measured, tail)
    return Outcome(name, "ok", seconds, measured)


def missing(packages: Sequence[str]) -> str | None:
    """Return the first of ``packages`` that cannot be imported."""
    for package in packages:
        try:
            if find_spec(package) is None:
                return package
        except ModuleNotFoundError:
            return package
    return None


def write_json(path: Path, value: object) -> None:
    """Write ``value`` aside and rename it, so that a reader never sees a half."""
    aside = path.with_suffix(".aside")
    aside.write_text(json.dumps(value, indent=1))
    aside.replace(path)


def as_rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return the outcomes as JSON can hold them."""
    return [asdict(outcome) for outcome in outcomes]


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the installed version of each package; "-" where it is missing."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "-"
    return found


def processor_name() -> str:
    """Return what this machine calls its processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "| "
        + " | ".join(_place(cell, width) for cell, width in zip(row, widths, strict=True))
        + " |"
        for row in (header, *rows)
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _place(cell: str, width: int) -> str:
    return cell.rjust(width) if cell[:1].isdigit() or cell[:1] in "-+" else cell.ljust(width)
