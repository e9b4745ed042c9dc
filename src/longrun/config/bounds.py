"""What no setting may be, whatever its type: values that files, arrays and messages cannot hold."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

MOST_WHOLE = (1 << 63) - 1
"""The largest whole number that arrays and files hold."""
MOST_NAME_BYTES, MOST_PATH_BYTES = 255, 4095
"""What Linux's file systems bear, for one name and for a whole path."""


def takes_booleans(annotation: Any) -> bool:
    """Say whether true and false have a place somewhere in a setting of this type.

    >>> takes_booleans(list[int]), takes_booleans(bool | None)
    (False, True)
    """
    if annotation is bool or annotation is Any or annotation is True:
        return True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True
    return any(map(takes_booleans, get_args(annotation)))


def refuse_booleans(value: Any) -> None:
    """Refuse booleans where numbers belong: Python takes true for 1.

    Raises:
        ValueError: there is one, at any depth.
    """
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} has no place here")
    for inside in _inside(value):
        refuse_booleans(inside)


def check_value(value: Any) -> None:
    """Check that files, arrays and messages can hold every part of ``value``.

    Raises:
        ValueError: a number is beyond 64 bits, a text is not Unicode, or a path cannot exist.
    """
    if isinstance(value, int) and not -MOST_WHOLE <= value <= MOST_WHOLE:
        raise ValueError(f"must lie between -{MOST_WHOLE} and {MOST_WHOLE}")
    if isinstance(value, str) and not is_unicode(value):
        raise ValueError("holds a NUL byte or bytes that are not UTF-8; remove them")
    if isinstance(value, Path):
        _check_path(str(value))
    for inside in _inside(value):
        check_value(inside)


def is_unicode(text: str) -> bool:
    """Say whether ``text`` can be written as UTF-8 and given to the system: no NUL, no halves."""
    return "\0" not in text and not any("\ud800" <= sign <= "\udfff" for sign in text)


def _check_path(text: str) -> None:
    if not is_unicode(text) or any(ord(sign) < 32 or ord(sign) == 127 for sign in text):
        raise ValueError("a path cannot hold control characters or bytes that are not UTF-8")
    longest = max(len(name.encode()) for name in text.split("/"))
    if longest > MOST_NAME_BYTES or len(text.encode()) > MOST_PATH_BYTES:
        raise ValueError(
            f"a path has at most {MOST_PATH_BYTES} bytes, each name in it {MOST_NAME_BYTES}; here"
            f" {len(text.encode())} and {longest}; shorten it"
        )


def _inside(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return list(value) if isinstance(value, list | tuple | set) else ()
