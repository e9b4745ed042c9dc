"""What a run looks like from outside: one row per stage."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal[
    "done", "running", "queued", "stale", "waiting", "failed", "cancelled", "interrupted"
]


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage of a run as ``longrun status`` shows it."""

    name: str
    verb: str
    state: State
    figures: str
    """Counts of a finished stage, progress of a running one, the reason of any other state."""
    wall_seconds: float | None
    folder: Path
