import pytest

from longrun.errors import InputError
from longrun.formats.json_text import decode_json, read_json

DEEP = b"[" * 200_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"rate": NaN}', "it holds NaN in rate, for which JSON has no word"),
        (b'{"a": {"b": [1, -Infinity]}}', r"it holds -Infinity in a.b\[1\], for which JSON"),
        (b'{"f": 1e999}', "it holds 1e999 in f, beyond the numbers of 64 bits"),
        (b'{"f": ' + b"9" * 5000 + b"}", "it holds 9{24} in f, beyond the numbers"),
        (b'{"p": "half \\ud83d"}', r"it holds half a character in p \(a lone surrogate\)"),
        (b'{"half \\ud83d": 1}', "it holds half a character in a name"),
        (b'{"p": "\xff"}', r"it is not valid UTF-8 \(from byte 8 on\)"),
        ('{"p": 1}'.encode("utf-16"), "it is not valid UTF-8 but begins as UTF-16 does"),
        (b'{"p": ', r"it is not valid JSON \(character 7 of 5\)"),
        (b"", "it is not valid JSON"),
        (b'{"p": ' + DEEP + b"]" * 200_000 + b"}", "it is nested too deep to be read"),
        (DEEP, "it is nested too deep to be read"),
        (b"null", "it is not a JSON object but null"),
        (b"true", "it is not a JSON object but a truth value"),
        (b"[1]", "it is not a JSON object but a list"),
        (b'{"p": 1}', "it has a field of another type than expected"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(content, message, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.json: is damaged: {message}.*; write it again$"):
        read_json(path, dict[str, str], "write it again")


def test_a_file_that_is_not_there_or_no_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: does not exist; write it"):
        read_json(tmp_path / "none.json", dict, "write it")
    with pytest.raises(InputError, match=r": cannot be read \(Is a directory\); write it"):
        read_json(tmp_path, dict, "write it")


def test_what_is_right_is_read():
    text = (
        '{"big": 1e308, "tiny": 1e-999, "long": 18446744073709551616, "é\u2028": "\\ud83d\\ude00"}'
    )
    value = decode_json(text.encode(), dict)
    assert value == {"big": 1e308, "tiny": 0.0, "long": 2**64, "é\u2028": "\U0001f600"}
