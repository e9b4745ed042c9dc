"""Times as Slurm writes them, and with units: what a time limit means wherever it is given."""

import re
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_MOST_DIGITS = 9


def parse_duration(value: object) -> int:
    """Return seconds: a time as Slurm takes it, or a number with units.

    Slurm's forms are minutes, ``minutes:seconds``, ``hours:minutes:seconds``, ``days-hours``,
    ``days-hours:minutes`` and ``days-hours:minutes:seconds``.

    >>> [parse_duration(value) for value in (90, "90", "30:00", "04:00:00", "1-12", "1-12:30")]
    [5400, 5400, 1800, 14400, 129600, 131400]
    >>> [parse_duration(value) for value in ("45s", "5m", "4h", "1d12h")]
    [45, 300, 14400, 129600]
    """
    text = str(value).strip().lower()
    clock, units = _CLOCK.fullmatch(text), re.fullmatch(r"(?:\d+[smhdw])+", text)
    seconds = 0
    if isinstance(value, bool) or max(map(len, re.findall(r"\d+", text)), default=0) > _MOST_DIGITS:
        pass
    elif clock:
        seconds = _seconds_of(*clock.groups())
    elif units:
        seconds = sum(int(n) * _UNITS[unit] for n, unit in re.findall(r"(\d+)([smhdw])", text))
    if seconds <= 0:
        raise ValueError("is not a time: write 30m, 4h, 1d12h, or as Slurm 90, 30:00, 1-12:00:00")
    return seconds


def format_duration(seconds: int) -> str:
    """Write seconds in the form that is read as the same wherever a time limit is given.

    >>> [format_duration(seconds) for seconds in (90, 3 * 86400 + 3600)]
    ['0-00:01:30', '3-01:00:00']
    """
    minutes, hours = seconds // 60, seconds // 3600
    return f"{hours // 24}-{hours % 24:02d}:{minutes % 60:02d}:{seconds % 60:02d}"


def _seconds_of(days: str | None, first: str, second: str | None, third: str | None) -> int:
    """Add the parts of a time: with days the first is hours, with two colons as well."""
    parts = [int(part) for part in (first, second, third) if part is not None]
    if days is None and len(parts) < 3:
        parts = [0, *parts]
    hours, minutes, rest = [*parts, 0, 0][:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest


Duration = Annotated[
    int,
    BeforeValidator(parse_duration, json_schema_input_type=int | str),
    PlainSerializer(format_duration, return_type=str),
]
"""Seconds. Written out as text, since a plain number is minutes."""
