"""Typed reads from a parsed JSON object, with errors that name the file and the field."""

import math
from collections.abc import Mapping
from typing import Any, NoReturn

from longrun.errors import InputError

_LARGEST = 2**53
"""Above this a float no longer holds every whole number."""


class Fields:
    """The fields of one object of a file, as ``config.json``.

    Every read raises ``InputError`` naming the field, its value and what is supported.
    """

    def __init__(self, values: Mapping[str, Any], where: str, prefix: str = "") -> None:
        """Read from ``values``; ``where`` is the file, ``prefix`` what leads to the object."""
        self.values = values
        self.where = where
        self.prefix = prefix

    def fail(self, field: str, problem: str) -> NoReturn:
        """Raise the error for ``problem`` in ``field``."""
        raise InputError.at(self.where, None, f"{self.prefix}{field}: {problem}")

    def has(self, field: str) -> bool:
        """Say whether ``field`` is there and not null."""
        return self.values.get(field) is not None

    def number(self, field: str, default: float | None = None) -> float:
        """Return a number above 0; ``default`` stands in for a missing or null field."""
        value = self.values.get(field)
        value = default if value is None else value
        if value is None:
            self.fail(field, "is missing; a number above 0 is needed")
        valid = isinstance(value, int | float) and not isinstance(value, bool)
        if not (valid and 0 < value <= _LARGEST and math.isfinite(value)):
            self.fail(field, f"is {value!r}; a number above 0 is needed")
        return float(value)

    def count(self, field: str) -> int:
        """Return a whole number above 0."""
        value = self.number(field)
        if not isinstance(self.values[field], int):
            self.fail(field, f"is {self.values[field]!r}; a whole number is needed")
        return int(value)

    def flag(self, field: str) -> bool:
        """Return a truth value; a missing field is false."""
        value = self.values.get(field, False)
        if not isinstance(value, bool):
            self.fail(field, f"is {value!r}; true or false is needed")
        return value

    def one_of(self, field: str, supported: tuple[str, ...], default: str | None = None) -> str:
        """Return one of the ``supported`` words; ``default`` stands in for a missing field."""
        value = self.values.get(field, default)
        if value not in supported:
            self.fail(field, f"is {value!r}; supported: {', '.join(supported)}")
        return str(value)

    def object(self, field: str) -> "Fields":
        """Return the fields of an object inside this one."""
        value = self.values.get(field)
        if not isinstance(value, Mapping):
            self.fail(field, f"is {value!r}; an object is needed")
        return Fields(value, self.where, f"{self.prefix}{field}.")
