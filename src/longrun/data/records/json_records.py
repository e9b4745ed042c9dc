"""One line of JSON becomes one record: simdjson reads it, ``decode_json`` has the last word.

simdjson takes a third less time for long solutions. What it refuses is decoded again: some of it
is valid (integers beyond 64 bits), and what is not is explained there.
"""

from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from longrun.formats.json_text import decode_json

Decode = Callable[[bytes], dict[str, Any]]
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Some programs write it before the first line; it says nothing, and simdjson reads over it."""


def record_decoder() -> Decode:
    """Return a function from a line to its record; it is for one thread.

    The function raises ``JsonError`` where the line is not one JSON object in UTF-8.
    """

    def exact(line: bytes) -> dict[str, Any]:
        return decode_json(line.removeprefix(_BYTE_ORDER_MARK), dict[str, Any])

    if find_spec("simdjson") is None:  # there are no wheels of it for the newest Python
        return exact
    import simdjson

    parse = simdjson.Parser().parse

    def decode(line: bytes) -> dict[str, Any]:
        record: object = None
        with suppress(ValueError, RuntimeError):
            record = parse(line, recursive=True)
        return record if isinstance(record, dict) else exact(line)

    return decode
