"""The record filters: which records go on, decided by columns, by text and by token counts.

Filters apply in the order of the recipe and the first that refuses a record names it. Counting
tokens costs more than anything else, so a record that an earlier filter refuses is never
tokenized; one that a *later* filter refuses is, when a token filter stands before that one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from longrun.config.benchmarks import Benchmark
from longrun.config.column_text import column_text
from longrun.config.expressions import compile_expression
from longrun.config.filters import Contamination, Filter, PassRate, TokenBounds
from longrun.errors import InputError
from longrun.formats.benchmarks import read_texts
from longrun.formats.text.shared_words import SharedWords
from longrun.formats.text.spans import THINK_END

NOT_AVAILABLE = "n/a"
"""What ``pass_rate_72b_tir`` holds where the rate was never measured."""
SELECTION = "genselect"
_COLUMNS = ("problem_source", "problem_type", "inference_mode")
_BOXED = "\\boxed{"

Predicate = Callable[[Mapping[str, Any]], bool]


def require_text(record: Mapping[str, Any], column: str) -> str:
    """Return a column that must be there and hold text, or null, which is an empty text.

    Raises:
        InputError: it is absent, of another type, or holds bytes that are not UTF-8.
    """
    value = record.get(column)
    if isinstance(value, str):
        return value
    if column in record and (value is None or isinstance(value, bytes)):
        return _text_of(record, column)
    if column in record:
        raise InputError(
            f"column {column}: expected text, got {type(value).__name__};"
            f' map it, as in columns: {{{column}: "{{{column}}}"}}'
        )
    raise InputError(
        f"column {column} is missing; the record has {', '.join(record) or 'no column'};"
        f' map one to it, as in columns: {{{column}: "{{NAME}}"}}'
    )


def _text_of(record: Mapping[str, Any], column: str) -> str:
    """Return the text of any value that has one; see ``longrun.config.column_text``."""
    if column not in record:
        return require_text(record, column)
    try:
        return column_text(record[column])
    except ValueError as error:
        raise InputError(f"column {column}: {error}") from None


class FilterChain:
    """The filters of a recipe, in order."""

    def __init__(self, filters: Sequence[Filter]) -> None:
        self._filters = list(filters)
        self._by_tokens = [
            one.response_tokens is not None or one.prompt_tokens is not None for one in filters
        ]
        self._predicates = [_predicate(one) for one in filters]

    @property
    def duplicates_by(self) -> str | None:
        """Return what makes records duplicates, where a filter drops them."""
        return next((one.duplicates for one in self._filters if one.duplicates), None)

    def refuse(self, record: Mapping[str, Any], repeats: bool = False) -> int | None:
        """Return the position of the first filter that refuses the record without its tokens.

        ``repeats``: an earlier record of the data has the same ``duplicates_by``.

        Raises:
            InputError: a column that a filter reads is absent or cannot be read.
        """
        for position, passes in enumerate(self._predicates):
            if repeats and self._filters[position].duplicates is not None:
                return position
            if not passes(record):
                return position
        return None

    def counts_tokens_before(self, position: int) -> bool:
        """Say whether a filter before ``position`` may refuse by token count."""
        return any(self._by_tokens[:position])

    def refuse_by_tokens(
        self, mode: str, prompt_tokens: int, response_tokens: int, before: int | None
    ) -> int | None:
        """Return the first filter that refuses, given the tokens of prompt and response.

        ``before`` is what ``refuse`` returned for the record.
        """
        for position, one in enumerate(self._filters[:before]):
            if _out_of(one.prompt_tokens, mode, prompt_tokens) or _out_of(
                one.response_tokens, mode, response_tokens
            ):
                return position
        return before

    def reason(self, position: int) -> str:
        """Return the name under which the ledger counts what filter ``position`` refused."""
        return f"filter {self._filters[position].name}"


def boxed_answer(text: str) -> str | None:
    r"""Return what the last ``\boxed{...}`` of a text holds, braces balanced; None: no such box.

    >>> boxed_answer(r"so \boxed{1} or \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    begin = text.rfind(_BOXED)
    if begin < 0:
        return None
    depth, position = 1, begin + len(_BOXED)
    for end in range(position, len(text)):
        depth += (text[end] == "{") - (text[end] == "}")
        if depth == 0:
            return text[position:end]
    return None


def _out_of(bounds: TokenBounds | None, mode: str, tokens: int) -> bool:
    if bounds is None or mode not in bounds.modes:
        return False
    return tokens < bounds.min or tokens > (math.inf if bounds.max is None else bounds.max)


def _predicate(one: Filter) -> Predicate:
    """Return what tells whether a record passes a filter, its tokens and its repeats aside."""
    if one.name in _COLUMNS:
        allowed = frozenset(getattr(one, one.name))
        return lambda record: require_text(record, one.name) in allowed
    if one.pass_rate is not None:
        bounds = one.pass_rate
        return lambda record: _rate_passes(bounds, record)
    if one.boxed_answer is not None:
        return lambda record: (
            _is_selection(record) or ((_BOXED in _answer_of(record)) == one.boxed_answer)
        )
    if one.expected_answer is not None:
        return lambda record: _is_selection(record) or _answers_as_expected(record)
    if one.contamination is not None:
        benchmarks = _index_benchmarks(one.contamination)
        return lambda record: not benchmarks.are_in(require_text(record, "problem"))
    if one.where is not None:
        evaluate = compile_expression(one.where)
        return lambda record: bool(evaluate(record))
    return lambda record: True


def _is_selection(record: Mapping[str, Any]) -> bool:
    return require_text(record, "inference_mode") == SELECTION


def _answer_of(record: Mapping[str, Any]) -> str:
    return require_text(record, "generated_solution").rpartition(THINK_END)[2]


def _answers_as_expected(record: Mapping[str, Any]) -> bool:
    found = boxed_answer(_answer_of(record))
    return found is not None and _bare(found) == _bare(_text_of(record, "expected_answer"))


def _bare(answer: str) -> str:
    return "".join(answer.split()).strip("$")


def _index_benchmarks(settings: Contamination) -> SharedWords:
    """Read the benchmark files; raises ``InputError`` where one is absent or damaged."""
    texts = [
        text
        for path in settings.benchmarks
        for text in read_texts(Benchmark(name="benchmark", path=path)).values()
    ]
    return SharedWords(texts, settings.ngram)


def _rate_passes(bounds: PassRate, record: Mapping[str, Any]) -> bool:
    value = record.get("pass_rate_72b_tir")
    if value == NOT_AVAILABLE or (value is None and "pass_rate_72b_tir" in record):
        return False
    with suppress(TypeError, ValueError, OverflowError):
        rate = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
        if math.isfinite(rate):
            return bounds.min <= rate <= bounds.max
    raise InputError(
        f"column pass_rate_72b_tir: expected a number or {NOT_AVAILABLE!r}, got {value!r:.40};"
        " repair it or take the filter pass_rate out"
    )
