"""JSON from outside: read exactly, or refused with what is wrong with it in our own words.

msgspec decodes; why a text was refused is decided here, so that neither the behaviour nor a
message hangs on how a library words its errors. JSON has no word for not-a-number or infinity and
no text holds half a character: such values are named with the field that holds them.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from longrun.errors import InputError

Kind = TypeVar("Kind")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_SHOWN = 24
"""Characters of a number that a message shows."""
_MOST_DIGITS = 4000
"""Python refuses to convert whole numbers of more than 4,300 digits."""
_TYPE_NAMES = {
    list: "a list",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "a truth value",
    type(None): "null",
}


class JsonError(ValueError):
    """Why a text cannot be used; reads on after the name of its file."""


class _Unspeakable(float):
    """A number that JSON or 64 bits have no place for, with its spelling in the text."""

    written: str


def decode_json(content: bytes, kind: type[Kind]) -> Kind:
    """Return the value of a JSON text as ``kind``, a type that msgspec knows.

    Raises:
        JsonError: it is not JSON in UTF-8, or is of another type.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise JsonError(why_refused(content, error)) from None


def read_json(path: Path, kind: type[Kind], remedy: str) -> Kind:
    """Return the value of a JSON file as ``kind``.

    Raises:
        InputError: the file cannot be read or is not JSON of this type; ends with ``remedy``.
    """
    try:
        return decode_json(path.read_bytes(), kind)
    except FileNotFoundError:
        raise InputError.at(path, None, f"does not exist; {remedy}") from None
    except OSError as error:
        raise InputError.at(path, None, f"cannot be read ({error.strerror}); {remedy}") from None
    except JsonError as error:
        raise InputError.at(path, None, f"is damaged: it {error}; {remedy}") from None


def as_fields(content: dict[str, Any], kind: type) -> dict[str, Any]:
    """Return ``content`` if its values are those of the dataclass ``kind``.

    Raises:
        JsonError: a field is missing or of another type.
    """
    try:
        msgspec.convert(content, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise JsonError(f"has a field of another type than expected ({error})") from None
    return content


def why_refused(content: bytes, error: Exception) -> str:
    """Return what is wrong with a text that msgspec refused with ``error``.

    >>> why_refused(b'{"rate": NaN}', ValueError())
    'holds NaN in rate, for which JSON has no word'
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as wrong:
        if content.startswith(_UTF16_MARKS):
            return "is not valid UTF-8 but begins as UTF-16 does"
        return f"is not valid UTF-8 (from byte {wrong.start + 1} on)"
    try:
        value = json.loads(text, parse_constant=_float, parse_float=_float, parse_int=_whole_number)
        found = next(_unusable(value), None)
    except RecursionError:
        return "is nested too deep to be read"
    except ValueError as wrong:
        place = wrong.pos + 1 if isinstance(wrong, json.JSONDecodeError) else 1
        return f"is not valid JSON (character {place} of {len(text.rstrip())})"
    if found is None and not isinstance(value, dict):
        return f"is not a JSON object but {_TYPE_NAMES[type(value)]}"
    return found or f"has a field of another type than expected ({error})"


def _float(written: str) -> float:
    number = float(written)
    return number if math.isfinite(number) else _unspeakable(number, written)


def _whole_number(written: str) -> float:
    """Return any number: only whether it can be read matters here."""
    return _unspeakable(math.inf, written) if len(written) > _MOST_DIGITS else 0


def _unspeakable(number: float, written: str) -> _Unspeakable:
    odd = _Unspeakable(number)
    odd.written = written
    return odd


def _unusable(value: Any, place: str = "") -> Iterator[str]:
    """Yield what is wrong with the values inside ``value``, in order."""
    at = place or "the value"
    match value:
        case _Unspeakable() if value.written[-1].isdigit():
            yield f"holds {value.written:.{_SHOWN}} in {at}, beyond the numbers of 64 bits"
        case _Unspeakable():
            yield f"holds {value.written} in {at}, for which JSON has no word"
        case str() if not _is_whole(value):
            yield f"holds half a character in {at} (a lone surrogate)"
        case dict():
            for name, inner in value.items():
                if not _is_whole(name):
                    yield "holds half a character in a name (a lone surrogate)"
                yield from _unusable(inner, f"{place}.{name}" if place else name)
        case list():
            for number, inner in enumerate(value):
                yield from _unusable(inner, f"{place}[{number}]")


def _is_whole(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)
