r"""Read the numbers that answers write in many ways, and compare them exactly.

Understood: ``-1,234.50``, ``\$18``, ``18 apples``, ``75\%``, ``3/4``, ``\frac{3}{4}``,
``1\frac{1}{2}``. Everything else is not a number here and is left to symbolic comparison.
Nothing is ever evaluated: digits are matched and become a ``Fraction``.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from longrun.evaluation.grading.notation import clean

MOST_DIGITS = 200
"""Longer numerals are not read: their arithmetic would cost more than it tells."""
FEWEST_DECIMALS = 6
MOST_DECIMALS = 9
_INTEGER = r"\d{1,3}(?:,\d{3})+|\d+"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*[$\u20ac\u00a3]?\s*"
    rf"(?:(?:(?P<whole>\d+)\s*)?\\frac\{{\s*(?P<minus>-?)(?P<above>{_INTEGER})\s*\}}"
    rf"\{{\s*(?P<below>{_INTEGER})\s*\}}"
    rf"|(?:(?P<units>\d+)\s+)?(?P<over>{_INTEGER})\s*/\s*(?P<under>{_INTEGER})"
    rf"|(?P<integer>{_INTEGER})?(?:\.(?P<decimals>\d*))?)"
    rf"\s*(?P<unit>.*)",
    re.DOTALL,
)
_LABEL = re.compile(
    r"\A(?:\\math[a-z]+\{\w+\}|[A-Za-z][A-Za-z ]*|[A-Za-z]_\{?\w+\}?)\s*(?:=|\\equiv(?![a-z]))\s*"
)
_MODULUS = re.compile(r"\s*\(?\s*\\[pb]?mod\b.*\Z", re.DOTALL)
_UNIT = re.compile(
    r"|%|\$|\^?\\circ|\^\{\\circ\}|[A-Za-z]{2,}(?:[ /][A-Za-z]{2,}){0,3}(?:\s*\^\{?[23]\}?)?"
)
"""Nothing, a sign, or up to four words, as square centimetres; a power needs a word before it."""
_NOT_UNITS = re.compile(
    r"\b(?:pi|sqrt|sin|cos|tan|log|ln|exp|mod|or|and|to|plus|minus|times|over|half|dozens?|hundreds?"
    r"|thousands?|millions?|billions?|trillions?|infinity)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Number:
    """A value as written: ``decimals`` is 0 for integers and None for fractions."""

    value: Fraction
    decimals: int | None
    is_percent: bool


def strip_label(text: str) -> str:
    r"""Return ``text`` without the name that a solution gave to its answer.

    >>> strip_label("\\text{Total cost} = 18")
    '18'
    >>> strip_label("n \\equiv 5 \\pmod{17}")
    '5'
    """
    bare = clean(text)
    label = _LABEL.match(bare)
    if label is None:
        return text
    named = bare[label.end() :]
    return _MODULUS.sub("", named) if "\\equiv" in label.group() else named


def read_number(text: str) -> Number | None:
    """Return the number that ``text`` is, without its unit, or None when it is not just one.

    >>> read_number("1,234.5 dollars").value
    Fraction(2469, 2)
    """
    bare = clean(text)
    match = _NUMBER.fullmatch(bare) if 0 < len(bare) <= MOST_DIGITS else None
    if match is None:
        return None
    read = _read_value(match)
    unit = match["unit"].strip()
    is_percent = unit in {"%", "percent", "per cent"}
    if read is None or _NOT_UNITS.search(unit) or not _UNIT.fullmatch(unit):
        return None
    value, decimals = read
    negative = (match["sign"] == "-") != (match["minus"] == "-")
    return Number(-value if negative else value, decimals, is_percent)


def same_number(expected: Number, given: Number) -> bool:
    """Say whether two numbers are equal.

    Exactly, with two allowances. A percentage equals the bare number and the hundredth of it. A
    decimal written with at least ``FEWEST_DECIMALS`` places equals a number that differs from it
    by less than one unit of its last place (of the ninth when longer): 0.333333 is 1/3, and
    0.30000000000000004 is 0.3, but 0.3333 is not 1/3.
    """
    if _close(expected.value, given.value, expected, given):
        return True
    if expected.is_percent == given.is_percent:
        return False
    one, two = (
        (expected.value / 100, given.value)
        if expected.is_percent
        else (expected.value, given.value / 100)
    )
    return one == two


def _close(one: Fraction, two: Fraction, expected: Number, given: Number) -> bool:
    places = max(expected.decimals or 0, given.decimals or 0)
    if places < FEWEST_DECIMALS:
        return one == two
    return abs(one - two) < Fraction(1, 10 ** min(places, MOST_DECIMALS))


def _read_value(match: re.Match[str]) -> tuple[Fraction, int | None] | None:
    """Return the unsigned value and its decimals; None when no digit was written."""
    if match["integer"] is not None or match["decimals"]:
        decimals = match["decimals"] or ""
        units = _digits(match["integer"] or "0")
        return units + Fraction(int(decimals or 0), 10 ** len(decimals)), len(decimals)
    for whole, above, below in (("whole", "above", "below"), ("units", "over", "under")):
        if match[above] is not None and _digits(match[below]) != 0:
            part = Fraction(_digits(match[above]), _digits(match[below]))
            return _digits(match[whole] or "0") + part, None
    return None


def _digits(text: str) -> int:
    return int(text.replace(",", ""))
