"""Templates over the columns of a record: ``str.format`` texts, filled by the rule of column texts.

``{problem}``, ``{messages[0][content]}`` and ``{rate:.2f}`` mean what ``str.format`` means by them;
what a value is as text is decided by ``longrun.config.column_text``, so that no list and no null
is ever written as Python shows it.
"""

import string
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from longrun.config.column_text import column_text
from longrun.errors import InputError

Part = tuple[str, str | None, str]
"""Literal text, the placeholder after it (None: none) and how to write its value."""
_FORMATTER = string.Formatter()


class NullColumnError(InputError):
    """A column that a text needs is null."""

    def __init__(self, message: str, column: str = "") -> None:
        """Keep the name of the column, for the ledger."""
        super().__init__(message)
        self.column = column


@lru_cache(maxsize=256)
def parse_placeholders(text: str) -> tuple[Part, ...]:
    """Return the parts of a template.

    Raises:
        ValueError: a brace is unbalanced, or a placeholder is empty or asks for a conversion.
    """
    parts: list[Part] = []
    for literal, name, spec, conversion in _FORMATTER.parse(text):
        if name is not None and (not name or conversion or "{" in (spec or "")):
            raise ValueError(f"placeholder {{{name}}} must be a column, without !r and the like")
        parts.append((literal, name, spec or ""))
    return tuple(parts)


def fill_template(text: str, record: Mapping[str, Any]) -> str:
    """Return ``text`` with the values of ``record``; braces inside values are ordinary.

    Raises:
        KeyError: the record lacks a column.
        NullColumnError: a value is null.
        InputError: a value has no text, or cannot be written as asked; names the column.
        ValueError: the text is not a template.
    """
    written: list[str] = []
    for literal, name, spec in parse_placeholders(text):
        written.append(literal)
        if name is not None:
            written.append(_write(name, spec, record))
    return "".join(written)


def _write(name: str, spec: str, record: Mapping[str, Any]) -> str:
    try:
        value = record[name] if name in record else _FORMATTER.get_field(name, (), record)[0]
    except (IndexError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"column {name}: there is no such part in the record ({error})") from None
    if value is None:
        raise NullColumnError(
            f"column {name} is null; give it a value, or take the record or the placeholder out",
            name,
        )
    try:
        shown = column_text(value)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return format(value if is_number else shown, spec) if spec else shown
    except ValueError as error:
        raise InputError(
            f"column {name}: {error}; the text is filled with text and numbers"
        ) from None
