"""Expressions over the columns of a record: a small part of Python's syntax, nothing of its power.

Names are columns; there are no attributes, no indices and no functions but those below. An
expression is checked when the settings are read and can do nothing but compare values::

    number(pass_rate_72b_tir) <= 0.3 and "geometry" not in lower(problem)
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from longrun.config.column_text import column_text
from longrun.errors import InputError

_MOST_LEVELS = 100
"""Parts of an expression inside each other; a sum of so many terms has as many."""
Evaluate = Callable[[Mapping[str, Any]], Any]

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, group: item in group,
    ast.NotIn: lambda item, group: item not in group,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}


def _number(value: Any) -> float:
    """Return a number, or not-a-number, which is neither above nor below anything."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _length(value: Any) -> int:
    """Return the characters of a text or the items of a list; null is an empty text."""
    return 0 if value is None else len(value)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "len": _length,
    "lower": lambda text: column_text(text).lower(),
    "number": _number,
    "words": lambda text: len(column_text(text).split()),
    "startswith": lambda text, start: column_text(text).startswith(start),
    "endswith": lambda text, end: column_text(text).endswith(end),
    "min": min,
    "max": max,
    "abs": abs,
}


def compile_expression(text: str) -> Evaluate:
    """Return the function that evaluates ``text`` on a record.

    The function raises ``InputError`` where a column is missing or values cannot be compared.

    Raises:
        ValueError: the text is not an expression of this kind.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text!r:.200} is not an expression ({error})") from None
    _check_depth(tree)
    evaluate = _build(tree.body)

    def run(record: Mapping[str, Any]) -> Any:
        try:
            return evaluate(record)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise InputError(f"expression {text!r} cannot be evaluated ({error})") from None

    return run


def _check_depth(tree: ast.Expression) -> None:
    waiting = [(tree.body, 1)]
    while waiting:
        node, depth = waiting.pop()
        if depth > _MOST_LEVELS:
            raise ValueError(f"an expression has at most {_MOST_LEVELS} levels; make it simpler")
        children = ast.iter_child_nodes(node)
        waiting += [(child, depth + 1) for child in children if isinstance(child, ast.expr)]


def _build(node: ast.expr) -> Evaluate:
    match node:
        case ast.Constant(value=str() | int() | float() | bool() | None as value):
            return lambda record: value
        case ast.Name(id=name):
            return lambda record: _column(record, name)
        case ast.BoolOp(op=op, values=values):
            parts = [_build(value) for value in values]
            combine = all if isinstance(op, ast.And) else any
            return lambda record: combine(part(record) for part in parts)
        case ast.UnaryOp(op=ast.Not() | ast.USub() as op, operand=operand):
            inner = _build(operand)
            change = operator.not_ if isinstance(op, ast.Not) else operator.neg
            return lambda record: change(inner(record))
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            return _build_comparison(left, ops, comparators)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return _build_arithmetic(_ARITHMETIC[type(op)], _build(left), _build(right))
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            parts = [_build(item) for item in items]
            return lambda record: [part(record) for part in parts]
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            parts = [_build(argument) for argument in arguments]
            function = FUNCTIONS[name]
            return lambda record: function(*(part(record) for part in parts))
    raise ValueError(
        f"{ast.unparse(node)!r} is not allowed in an expression; columns, constants, comparisons,"
        f" and, or, not, in, + - * / % and {', '.join(FUNCTIONS)} are"
    )


def _build_comparison(left: ast.expr, ops: list[ast.cmpop], others: list[ast.expr]) -> Evaluate:
    for op in ops:
        if type(op) not in _COMPARE:
            raise ValueError("`is` is not allowed in an expression; use == or !=")
    compare = [_COMPARE[type(op)] for op in ops]
    sides = [_build(side) for side in (left, *others)]

    def evaluate(record: Mapping[str, Any]) -> bool:
        values = [side(record) for side in sides]
        return all(
            one(before, after)
            for one, before, after in zip(compare, values, values[1:], strict=False)
        )

    return evaluate


def _build_arithmetic(
    compute: Callable[[Any, Any], Any], left: Evaluate, right: Evaluate
) -> Evaluate:
    def evaluate(record: Mapping[str, Any]) -> float:
        values = (left(record), right(record))
        for value in values:
            if not isinstance(value, int | float):
                raise TypeError(f"{value!r:.40} is not a number; use number(...)")
        return float(compute(*values))

    return evaluate


def _column(record: Mapping[str, Any], name: str) -> Any:
    if name not in record:
        raise InputError(
            f"column {name} is missing, an expression needs it; the record has {', '.join(record)}"
        )
    return record[name]
