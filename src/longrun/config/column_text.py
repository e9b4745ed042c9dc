"""What a record's value is as text: the one rule for prompts, mapped columns, filters and answers.

Text stays as it is, numbers are written as JSON writes them, bytes are decoded as UTF-8. Null is an
empty field; whoever asks decides what that means for the record. Everything else, lists above all,
has no text: it is refused, never written as Python would show it.
"""

import math
from decimal import Decimal
from typing import Any


def column_text(value: Any) -> str:
    r"""Return the text of a record's value; null is an empty one.

    >>> [column_text(value) for value in ("x", 5, 0.5, True, b"a b", None)]
    ['x', '5', '0.5', 'true', 'a b', '']

    Raises:
        ValueError: it has none; the message reads on after the name of the column.
    """
    match value:
        case str():
            return value
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case bytes():
            return _decoded(value)
        case int() | float() | Decimal() if math.isfinite(value):
            return str(value)
        case int() | float() | Decimal():
            raise ValueError(f"expected text or a number, got {value}")
    raise ValueError(f"expected text or a number, got {type(value).__name__}")


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ValueError("expected text, got bytes that are not UTF-8") from None
