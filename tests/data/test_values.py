"""Values that are not text: null, bytes, lists, odd numbers, in every place of a record."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from longrun.config.stages import DataSource
from longrun.data.documents import prepare
from longrun.data.records.filters import require_text
from longrun.data.records.sources import cut_parts, list_files, map_columns, read_part
from longrun.errors import InputError
from longrun.evaluation.generation.code_calls import find_call
from longrun.formats.documents import DocumentSet
from longrun.formats.text.code_style import CodeStyle
from longrun.formats.text.conversation import Prompt
from longrun.formats.text.placeholders import fill_template
from longrun.formats.text.spans import split_response

GOOD = {"problem": "1+1?", "generated_solution": "<think>\nx\n</think>\n2", "inference_mode": "cot"}
MAPPED = {"problem": "{q}", "generated_solution": "{sol}", "inference_mode": "cot"}
CALL = (
    "<think>\nuse\n<tool_call>\nprint(3)\n</tool_call>\n```output\n3\n```\n```system\nRemaining"
    " code executions: 2. Mind.\n```\n</think>\n\\boxed{3}"
)


def write_jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def prepared(make_config, data, **settings):
    """Return the ledger's drops and the text of all documents."""
    config = make_config(data=data, **settings)
    manifest = prepare.run(config)
    folder = config.output_dir
    tokens = [one.tokens.tolist() for one in DocumentSet.open(folder / "train")]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    texts = [tokenizer.decode(one, skip_special_tokens=False) for one in tokens]
    return manifest.ledger.dropped, "\n".join(texts)


def read_rows(path, columns=None):
    """Return the records of a file as prepare sees them."""
    (file,) = list_files([DataSource(path=path, columns=columns or {})])
    rows = [row for part in cut_parts([file], 1 << 20) for row in read_part(part, lambda _: None)]
    return [map_columns(file.columns, row) for row in rows]


def test_null_is_an_empty_field_everywhere(make_config, tmp_path):
    prompt = tmp_path / "hint.yaml"
    prompt.write_text("user: 'Hint: {hint} {problem}'\n")
    good = GOOD | {"hint": 7.5}
    rows = [good, good | {"problem": None}, good | {"generated_solution": None}]
    plain = write_jsonl(tmp_path / "a.jsonl", *rows, good | {"hint": None})
    raw = [{"q": "1+1?", "sol": 2}, {"q": "2+2?", "sol": None}, {"q": None, "sol": 3}]
    mapped = write_jsonl(tmp_path / "b.jsonl", *(row | {"hint": "see"} for row in raw))
    columns = MAPPED | {"generated_solution": "so \\boxed{{{sol}}}"}
    data = [{"path": plain}, {"path": mapped, "columns": columns}]
    dropped, text = prepared(make_config, data, prompts={"cot": str(prompt)})
    assert dropped == {"empty problem": 2, "empty solution": 2, "empty hint": 1}
    assert "None" not in text
    assert "Hint: 7.5 1+1?" in text
    assert "Hint: see 1+1?" in text
    assert "so \\boxed{2}" in text


@pytest.mark.parametrize(
    ("hint", "kind"),
    [
        (["a"], "list"),
        ({"a": None}, "dict"),
        ([None], "list"),
        (b"\xff", "bytes that are not UTF-8"),
    ],
)
def test_what_has_no_text_is_refused_by_its_column(hint, kind):
    for text in ("{hint}", "{hint:>20}"):
        with pytest.raises(InputError, match=rf"^column hint: expected text.* got {kind}"):
            Prompt("", text).fill({"hint": hint})
        message = rf"columns\.problem cannot be filled: column hint: expected text.* got {kind}"
        with pytest.raises(InputError, match=message):
            map_columns({"problem": text}, {"hint": hint})


def test_placeholders_mean_what_str_format_means_by_them():
    record = {"messages": [{"content": "hi {x}"}], "rate": 0.5, "n": 12345, "flag": True}
    text = "{messages[0][content]} {rate:.2f} {n:,} {n} {flag} {{literal}}"
    assert fill_template(text, record) == "hi {x} 0.50 12,345 12345 true {literal}"
    for wrong in ("{rate!r}", "{}", "{n:{n}}", "{n"):
        with pytest.raises(ValueError, match=r"placeholder|expected '}'"):
            fill_template(wrong, record)
    for wrong in ("{messages[7]}", "{rate.hex}", "{n[0]}", "{flag:.2f}"):
        with pytest.raises(InputError, match=r"^column "):
            fill_template(wrong, record)


@pytest.mark.parametrize(
    "kind",
    [pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int8(), pa.binary())],
)
def test_bytes_are_utf8(kind, tmp_path):
    row = GOOD | {"problem": "é+1?"}
    arrays = [pa.array([text.encode()], pa.binary()) for text in row.values()]
    is_dictionary = pa.types.is_dictionary(kind)
    arrays = [one.dictionary_encode() if is_dictionary else one.cast(kind) for one in arrays]
    table = pa.table([*arrays, pa.array([b"\x89PNG\xff"])], names=[*row, "image"])
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    columns = {"problem": "{problem}", "generated_solution": "{generated_solution}"}
    for mapped in ({}, columns):
        (found,) = read_rows(tmp_path / "a.arrow", mapped)
        assert {name: require_text(found, name) for name in row} == row
    with pytest.raises(InputError, match="column image: expected text, got bytes that are not UTF"):
        require_text(found, "image")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("NaN", "NaN in rate"),
        ("1e999", "1e999 in rate"),
        ("[1, -Infinity]", r"-Infinity in rate\[1\]"),
    ],
)
def test_numbers_that_json_does_not_have_are_named(value, said, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", GOOD, GOOD | {"rate": "HERE"})
    path.write_text(path.read_text().replace('"HERE"', value))
    with pytest.raises(InputError, match=rf"a\.jsonl:2: holds {said}"):
        read_rows(path)


def test_line_ends_of_windows_are_read_as_line_ends(make_config, tmp_path):
    row = GOOD | {"inference_mode": "tir", "generated_solution": CALL.replace("\n", "\r\n")}
    dropped, text = prepared(make_config, write_jsonl(tmp_path / "a.jsonl", row))
    assert dropped == {}
    said = json.loads((tmp_path / "out" / "conversation.json").read_text())["code"]
    assert said["remaining_notice"] == "Remaining code executions: {remaining}. Mind."
    assert "</tool_call>\r\n```output\r\n3\r\n" in text
    kinds = [kind for kind, _ in split_response(CALL.encode(), CodeStyle.named("tool_call"))]
    text = row["generated_solution"].encode()
    borders = split_response(text, CodeStyle.named("tool_call"))
    assert [kind for kind, _ in borders] == kinds
    ends = [end for _, end in borders]
    pieces = [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    assert pieces[1] == b"<tool_call>\r\nprint(3)\r\n</tool_call>\r\n"
    assert pieces[2] == b"```output\r\n3\r\n```\r\n"
    assert b"".join(pieces) == text
    call = find_call(text.decode(), CodeStyle.named("tool_call"))
    assert call.code == "print(3)\r\n"


def test_what_was_right_stays_right(tmp_path):
    path = tmp_path / "a.jsonl"
    twice = b'{"problem": "one", "problem": "two\\u2028 \\ud83d\\ude00", "n": -9223372036854775809,'
    path.write_bytes(twice + b' "id": 10000000000000000000000000000000000000000}\r\n')
    record = {"problem": "two\u2028 \U0001f600", "n": -(2**63) - 1, "id": 10**40}
    assert read_rows(path) == [record]
    path.write_bytes(path.read_bytes() + b"\0" * 64)
    with pytest.raises(InputError, match=r"a\.jsonl:2: is not valid JSON"):
        read_rows(path)
    path.write_bytes(json.dumps(GOOD).encode("utf-16"))
    with pytest.raises(InputError, match=r"a\.jsonl:1: is not valid UTF-8 but begins as UTF-16"):
        read_rows(path)
    rows = [GOOD | {"problem": f"{at}?"} for at in range(4)]
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        table = pa.Table.from_pylist(rows)
        table = table.cast(pa.schema([(name, kind) for name in table.column_names]))
        pq.write_table(table, tmp_path / "k.parquet")
        assert read_rows(tmp_path / "k.parquet") == rows


def test_a_path_that_exists_is_that_path(tmp_path):
    for name in ("data[1]", "data1"):
        (tmp_path / name).mkdir()
        for file in ("a.jsonl", "b[2].jsonl", "b2.jsonl"):
            (tmp_path / name / file).write_text("{}\n")
    for written in ("data[1]/a.jsonl", "data[1]/b[2].jsonl"):
        (found,) = list_files([DataSource(path=tmp_path / written)])
        assert found.path == tmp_path / written
    found = list_files([DataSource(path=tmp_path / "data[1]" / "b*.jsonl")])
    assert [one.path.parent.name for one in found] == ["data[1]"] * 2
    found = list_files([DataSource(path=tmp_path / "data[12]" / "a.jsonl")])
    assert [one.path for one in found] == [tmp_path / "data1" / "a.jsonl"]
