"""What msgspec reads, the decoder reads; what it refuses is refused in words of our own."""

import json
import random
from typing import Any

import msgspec
import pytest

from longrun.data.records.json_records import record_decoder
from longrun.formats.json_text import JsonError, why_refused

simdjson = pytest.importorskip("simdjson")

PIECES = [
    *rb'" \ \u \ud83d \ude00 \ud800 \u0000 \x { } [ ] , : true fals null "problem":1,'.split(),
    *b"NaN Infinity 1e400 5e-324 1 - -0 01 . e 18446744073709551616".split(),
    *(b" ", b"\n", b"\x00", b"\x1f"),
    *(b"\xff", b"\xc3", b"\xa9", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\xef\xbb\xbf"),
]
MARK = b"\xef\xbb\xbf"
LINES = [
    b'{"problem": "p", "solution": "\\\\frac{1}{2} \\n \\u00e9", "n": 12, "l": [1, {"a": null}]}\n',
    '{"é": "日本 \\ud83d\\ude00", "rate": 0.30000000000000004}'.encode(),
    b"{}",
]


def exact(line: bytes) -> str:
    try:
        return repr(msgspec.json.decode(line.removeprefix(MARK), type=dict[str, Any]))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return why_refused(line.removeprefix(MARK), error)


def decoded(decode, line: bytes) -> str:
    try:
        return repr(decode(line))
    except JsonError as error:
        return str(error)


def mutated(rng: random.Random) -> bytes:
    line = bytearray(rng.choice(LINES))
    for _ in range(rng.randint(0, 3)):
        at = rng.randint(0, len(line))
        line[at : at + rng.choice([0, 0, 1, 4])] = rng.choice(PIECES)
    return bytes(line)


def test_records_are_those_of_msgspec_and_what_it_refuses_is_explained():
    rng = random.Random(0)
    decode = record_decoder()
    valid = 0
    for _ in range(30_000):
        line = mutated(rng)
        found = exact(line)
        assert decoded(decode, line) == found, line
        assert found.startswith("{") or found.split()[0] in ("is", "holds"), line
        valid += found.startswith("{")
    assert valid > 5000


def test_a_valid_line_needs_no_msgspec(monkeypatch):
    monkeypatch.setattr("longrun.data.records.json_records.decode_json", pytest.fail)
    text = "a \\ b é\n" * 1000
    line = json.dumps({"generated_solution": text}, ensure_ascii=False).encode()
    assert record_decoder()(line) == {"generated_solution": text}


@pytest.mark.parametrize("line", [b'{"n": 18446744073709551616}', b'{"n": -9223372036854775809}'])
def test_integers_beyond_64_bits_are_exact(line):
    with pytest.raises((ValueError, RuntimeError)):
        simdjson.Parser().parse(line)
    assert record_decoder()(line) == json.loads(line)


def test_without_simdjson_everything_is_read_by_msgspec(monkeypatch):
    monkeypatch.setattr("longrun.data.records.json_records.find_spec", lambda _: None)
    decode = record_decoder()
    assert decode(b'\n {"a": [1]}') == {"a": [1]}
    assert decode(MARK + b'{"a": 1}') == {"a": 1}
    with pytest.raises(JsonError, match="is not a JSON object but a list"):
        decode(b"[1]")
