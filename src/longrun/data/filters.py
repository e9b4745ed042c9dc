"""The record filters: which records go on, decided by columns, by text and by token counts.

Filters apply in the order of the recipe and the first that refuses a record names it. Counting
tokens costs more than anything else, so a record that an earlier filter refuses is never
tokenized; one that a *later* filter refuses is, when a token filter stands before that one.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from longrun.config.filters import Filter, PassRate
from longrun.errors import InputError
from longrun.formats.spans import THINK_END

NOT_AVAILABLE = "n/a"
"""What ``pass_rate_72b_tir`` holds where the rate was never measured."""
SELECTION = "genselect"
_COLUMNS = ("problem_source", "problem_type", "inference_mode")


def require_text(record: Mapping[str, Any], column: str) -> str:
    """Return a column that must be there and hold text.

    Raises:
        InputError: it is absent or of another type.
    """
    value = record.get(column)
    if isinstance(value, str):
        return value
    if column in record:
        raise InputError(
            f"column {column}: expected text, got {type(value).__name__};"
            f' map it, as in columns: {{{column}: "{{{column}}}"}}'
        )
    raise InputError(
        f"column {column} is missing; the record has {', '.join(record) or 'no column'};"
        f' map one to it, as in columns: {{{column}: "{{NAME}}"}}'
    )


class FilterChain:
    """The filters of a recipe, in order."""

    def __init__(self, filters: Sequence[Filter]) -> None:
        self._filters = list(filters)
        self._by_tokens = [one.response_tokens is not None for one in filters]

    def refuse(self, record: Mapping[str, Any]) -> int | None:
        """Return the position of the first filter that refuses the record without its tokens.

        Raises:
            InputError: a column that a filter reads is absent or cannot be read.
        """
        for position, one in enumerate(self._filters):
            if not self._by_tokens[position] and not _passes(one, record):
                return position
        return None

    def counts_tokens_before(self, position: int) -> bool:
        """Say whether a filter before ``position`` may refuse by token count."""
        return any(self._by_tokens[:position])

    def refuse_by_tokens(self, mode: str, response_tokens: int, before: int | None) -> int | None:
        """Return the first filter that refuses, given the tokens of the response.

        ``before`` is what ``refuse`` returned for the record.
        """
        for position, one in enumerate(self._filters[:before]):
            bounds = one.response_tokens
            if bounds is None or mode not in bounds.modes:
                continue
            if response_tokens < bounds.min or response_tokens > (bounds.max or math.inf):
                return position
        return before

    def reason(self, position: int) -> str:
        """Return the name under which the ledger counts what filter ``position`` refused."""
        return f"filter {self._filters[position].name}"


def _passes(one: Filter, record: Mapping[str, Any]) -> bool:
    for column in _COLUMNS:
        allowed = getattr(one, column)
        if allowed is not None:
            return require_text(record, column) in allowed
    if one.pass_rate is not None:
        return _rate_passes(one.pass_rate, record)
    if one.boxed_answer is not None and require_text(record, "inference_mode") != SELECTION:
        answer = require_text(record, "generated_solution").rpartition(THINK_END)[2]
        return ("\\boxed{" in answer) == one.boxed_answer
    return True


def _rate_passes(bounds: PassRate, record: Mapping[str, Any]) -> bool:
    value = record.get("pass_rate_72b_tir")
    if value == NOT_AVAILABLE:
        return False
    try:
        rate = float(value)  # type: ignore[arg-type]  # anything else is refused just below
    except (TypeError, ValueError):
        raise InputError(
            f"column pass_rate_72b_tir: expected a number or {NOT_AVAILABLE!r}, got {value!r:.40};"
            " mend it or take the filter pass_rate out"
        ) from None
    return bounds.min <= rate <= bounds.max
