"""``metrics.jsonl``: one line per optimizer step and one per validation, written by rank 0.

Lines are appended as they happen. A training that continues from step n keeps the lines up to
step n and drops what was written after that checkpoint (and a torn last line), so no step occurs
twice and the file is that of an uninterrupted training, up to the times in it.
"""

import json
import math
import os
from pathlib import Path
from typing import IO, Any

from longrun.errors import InputError
from longrun.formats.json_text import JsonError, decode_json
from longrun.formats.stages.atomic import full_disk_named, write_text

METRICS_NAME = "metrics.jsonl"
TIMING_FIELDS = (
    "seconds",
    "tokens_per_second",
    "supervised_tokens_per_second",
    "data_wait_share",
    "seconds_left",
    "peak_memory_bytes",
    "mfu",
    "measured_imbalance",
)
"""The only fields that differ between two runs of the same training."""


class Metrics:
    """The open file; lines appear in it at once and survive a power cut after ``sync``."""

    def __init__(self, run_folder: Path, *, resumed_step: int) -> None:
        """Open the file of a training that continues after ``resumed_step`` steps; 0: a new one."""
        self._path = run_folder / METRICS_NAME
        kept = [line for line in read_metrics(run_folder) if line["step"] <= resumed_step]
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file: IO[str] = open(self._path, "a")  # noqa: SIM115 - closed by ``close``

    def append(self, line: dict[str, Any]) -> None:
        """Append one line; a number that is not finite, which JSON does not know, becomes null.

        Raises:
            ResourceError: the disk is full.
        """
        with full_disk_named(self._path):
            self._file.write(json.dumps(_finite(line), allow_nan=False) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Make every line so far survive a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {name: _finite(inside) for name, inside in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(run_folder: Path) -> list[dict[str, Any]]:
    """Read the lines of a training, without a last line that a kill tore; none: no file yet."""
    path = run_folder / METRICS_NAME
    if not path.exists():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
        try:
            rows.append(decode_json(line, dict[str, Any]))
        except JsonError as error:
            raise InputError.at(path, number, f"is damaged: it {error}; delete the line") from None
    return rows
