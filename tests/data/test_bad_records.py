"""Records and files as they come from the world: an error of one line or a counted drop."""

import gzip
import json
import logging
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longrun.data.documents import prepare
from longrun.errors import InputError
from longrun.formats.documents import DocumentSet


def line(**columns) -> bytes:
    record = {"problem": "1+1?", "generated_solution": "<think>\nx\n</think>\n2"}
    return json.dumps(record | {"inference_mode": "cot"} | columns).encode() + b"\n"


def test_a_record_of_50_mb_is_a_document(make_config, tmp_path, caplog):
    long = f"<think>\n{'ab cd e' * 7_150_000}</think>\n2"
    path = tmp_path / "a.jsonl"
    path.write_bytes(line() + line(generated_solution=long) + line())
    assert path.stat().st_size > 50_000_000
    with caplog.at_level(logging.INFO):
        prepare.run(make_config(data=path, part_bytes=1 << 20))
    assert "gigatoken: equal to tokenizers on 4 sampled texts" in caplog.text
    documents = DocumentSet.open(tmp_path / "out" / "train")
    assert [documents.origin(at).line for at in range(3)] == [1, 2, 3]
    assert documents.lengths[1] > 10_000_000


def test_null_bytes_in_a_text_are_text(make_config, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(line(problem="a\0b", generated_solution="<think>\n\0</think>\n\0"))
    prepare.run(make_config(data=path))
    tokens = DocumentSet.open(tmp_path / "out" / "train")[0].tokens.tolist()
    from tokenizers import Tokenizer

    folder = tmp_path / "out" / "tokenizer" / "tokenizer.json"
    text = Tokenizer.from_file(str(folder)).decode(tokens, skip_special_tokens=False)
    assert text.count("\0") == 3


def test_a_byte_order_mark_is_read_over(make_config, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + line() + line())
    assert prepare.run(make_config(data=path)).counts["documents"] == 2


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (b'{"problem": "\xff\xfe"}\n', r"a\.jsonl:3: is not valid UTF-8"),
        (b"\0\0\0\0\n", r"a\.jsonl:3: is not valid JSON"),
        (b'{"problem": "\\ud800"}\n', r"a\.jsonl:3: holds half a character in problem"),
        (
            line(generated_solution=7),
            r"a\.jsonl:3: column generated_solution: expected text, got i",
        ),
        (line(problem=["x"]), r"a\.jsonl:3: column problem: expected text, got list"),
        (b"[1]\n", r"a\.jsonl:3: is not a JSON object"),
        (line()[:-20], r"a\.jsonl:3: is not valid JSON"),
    ],
    ids=["utf-8", "null", "surrogate", "type", "list", "array", "cut"],
)
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_a_broken_line_is_named(broken, message, ending, make_config, tmp_path):
    path = tmp_path / f"a.{ending}"
    content = line() + line() + broken + (line() if broken.endswith(b"\n") else b"")
    path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    with pytest.raises(InputError, match=message.replace(r"a\.jsonl", rf"a\.{ending}")):
        prepare.run(make_config(data=path))
    assert [left.name for left in (tmp_path / "out").iterdir()] == [".lock"]


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_an_interrupted_download_is_named(kept, make_config, tmp_path):
    rows = b"".join(line(problem=os.urandom(200).hex()) for _ in range(500))
    path = tmp_path / "a.jsonl.gz"
    whole = gzip.compress(rows)
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(InputError, match=r"a\.jsonl\.gz: cannot be read \(.*fetch it again"):
        prepare.run(make_config(data=path))
    path = tmp_path / "b.parquet"
    pq.write_table(pa.Table.from_pylist([json.loads(row) for row in rows.splitlines()]), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(InputError, match=r"b\.parquet: cannot be read \(.*fetch it again"):
        prepare.run(make_config(data=path, output_dir=tmp_path / "other"))


def test_a_column_of_tables_of_another_type_is_named_with_its_row(make_config, tmp_path):
    rows = [json.loads(line()) | {"problem": [] if at == 4 else ["x"]} for at in range(6)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet:1: column problem: expected text, got list"):
        prepare.run(make_config(data=tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    "one",
    [
        {"pass_rate": {"max": 0.5}},
        {"where": "number(level) > 3"},
        {"expected_answer": True},
        {"problem_type": ["x"]},
    ],
    ids=lambda one: next(iter(one)),
)
def test_a_filter_on_a_column_that_is_not_there_names_line_and_column(one, make_config, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(line() + line(generated_solution="\\boxed{1}"))
    with pytest.raises(InputError, match=r"a\.jsonl:[12]: (column|expression) .*"):
        prepare.run(make_config(data=path, filters=[one]))


@pytest.mark.skipif(sys.platform != "linux", reason="limits file sizes as Linux does")
def test_a_disk_that_fills_up_is_named_and_the_same_command_continues(
    make_config, samples, tmp_path
):
    data = samples.write_jsonl(tmp_path / "a.jsonl", samples.records(1500))
    config = make_config(data=data, part_bytes=65536)
    command = [sys.executable, "-m", "longrun", "prepare", _saved(config, tmp_path)]
    disk = tmp_path / "out"
    disk.mkdir()
    whole = make_config(data=data, part_bytes=65536, output_dir=tmp_path / "whole")
    prepare.run(whole)
    size = sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    mount = ["mount", "-t", "tmpfs", "-o", f"size={int(size * 0.8)}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a disk")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert "no space left" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        assert not list(disk.rglob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        assert subprocess.run(command, check=False).returncode == 0
        assert samples.contents(disk) == samples.contents(tmp_path / "whole")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _saved(config, tmp_path) -> str:
    config.save(tmp_path / "prepare.yaml")
    return str(tmp_path / "prepare.yaml")
