import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun.config.stages import DataSource
from longrun.data.records.sources import cut_parts, list_files, map_columns, read_part, where
from longrun.errors import InputError

ROWS = [{"problem": f"p{number}", "n": number} for number in range(40)]


def read_all(path, part_bytes=1 << 20):
    parts = cut_parts(list_files([DataSource(path=path)]), part_bytes)
    return [row for part in parts for row in read_part(part, lambda _: None)]


def jsonl(rows=ROWS) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def message(path, **columns) -> str:
    with pytest.raises(InputError) as caught:
        list_files([DataSource(path=path, columns=columns)])
    return str(caught.value)


@settings(deadline=None, max_examples=60)
@given(
    lines=st.lists(st.integers(0, 30), min_size=1, max_size=30),
    part_bytes=st.integers(1, 60),
    final_newline=st.booleans(),
)
def test_every_line_is_read_once_wherever_the_file_is_cut(
    lines, part_bytes, final_newline, tmp_path_factory
):
    rows = [{"n": at, "x": "x" * length} for at, length in enumerate(lines)]
    content = jsonl(rows) if final_newline else jsonl(rows)[:-1]
    path = tmp_path_factory.mktemp("cut") / "a.jsonl"
    path.write_bytes(content)
    parts = cut_parts(list_files([DataSource(path=path)]), part_bytes)
    assert [row for part in parts for row in read_part(part, lambda _: None)] == rows
    found = [
        where(part, line)
        for part in parts
        for line, _ in enumerate(read_part(part, lambda _: None))
    ]
    assert found == [f"{path}:{at + 1}" for at in range(len(rows))]


def test_progress_adds_up_to_the_bytes_of_the_file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl())
    reported = []
    for part in cut_parts(list_files([DataSource(path=path)]), 100):
        list(read_part(part, reported.append))
    assert sum(reported) == path.stat().st_size


def test_every_kind_of_file_gives_the_same_records(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl())
    half = len(jsonl(ROWS[:20]))
    compress = zstandard.ZstdCompressor().compress
    (tmp_path / "b.jsonl.zst").write_bytes(compress(jsonl()[:half]) + compress(jsonl()[half:]))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(jsonl()))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "d.parquet", row_group_size=7)
    for path in tmp_path.iterdir():
        assert read_all(path) == ROWS, path


def test_blank_lines_count_as_lines(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"n": 1}\n\n  \r\n{"n": 2}\n')
    assert read_all(tmp_path / "a.jsonl") == [{"n": 1}, None, None, {"n": 2}]


def test_files_come_in_the_order_of_the_sources_and_sorted_inside_a_glob(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "z.jsonl"):
        (tmp_path / name).write_bytes(jsonl())
    files = list_files([DataSource(path=tmp_path / "z.jsonl"), DataSource(path=tmp_path / "[ab]*")])
    assert [file.path.name for file in files] == ["z.jsonl", "a.jsonl", "b.jsonl"]
    assert [file.number for file in files] == [0, 1, 2]


@pytest.mark.parametrize("part_bytes", [1 << 20, 90])
@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"problem": "x"\n', "is not valid JSON"),
        (b'{"problem": "\xff"}\n', "is not valid UTF-8"),
        (b"[1, 2]\n", "is not a JSON object but a list"),
        (b"NaN\n", "holds NaN in the value"),
    ],
)
def test_a_broken_line_is_named(line, problem, part_bytes, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(ROWS[:16]) + line + jsonl(ROWS[17:]))
    with pytest.raises(InputError, match=rf"a\.jsonl:17: {problem}"):
        read_all(path, part_bytes)


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_compressed_file_cut_short_is_named(suffix, tmp_path):
    path = tmp_path / f"a.jsonl.{suffix}"
    compress = gzip.compress if suffix == "gz" else zstandard.ZstdCompressor().compress
    path.write_bytes(compress(jsonl(ROWS * 200))[:-20])
    with pytest.raises(InputError, match=rf"a\.jsonl\.{suffix}: cannot be read"):
        read_all(path)


def test_a_damaged_parquet_file_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(InputError, match=r"a\.parquet: cannot be read"):
        read_all(tmp_path / "a.parquet")


def test_unusable_paths_are_named_with_the_remedy(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "a.txt").write_text("x")
    assert "matches no file" in message(tmp_path / "*.parquet")
    assert "names a folder; name its files, as in" in message(tmp_path)
    assert "there is no such file" in message(tmp_path / "absent.jsonl")
    assert "is empty" in message(tmp_path / "empty.jsonl")
    assert "must end in .jsonl, .jsonl.gz, .jsonl.zst, .parquet or .arrow" in message(
        tmp_path / "a.txt"
    )


def test_columns_are_filled_from_the_raw_record():
    columns = {"generated_solution": "{solution} \\boxed{{{answer}}}", "inference_mode": "cot"}
    mapped = map_columns(columns, {"solution": "so {x}", "answer": 4, "problem": "p"})
    assert mapped["generated_solution"] == "so {x} \\boxed{4}"
    assert mapped["inference_mode"] == "cot"
    assert mapped["problem"] == "p"


def test_a_template_that_cannot_be_filled_names_the_column():
    with pytest.raises(
        InputError, match=r"column text is missing, columns\.problem needs it; .* q"
    ):
        map_columns({"problem": "{text}"}, {"q": "x"})
    with pytest.raises(InputError, match=r"columns\.problem cannot be filled .* double a literal"):
        map_columns({"problem": "{q} }"}, {"q": "x"})


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_arrow_files_hold_the_same_records(kind, tmp_path):
    table = pa.Table.from_pylist(ROWS)
    opened = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    with opened(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    assert read_all(tmp_path / "a.arrow") == ROWS


def test_a_folder_that_datasets_saved_is_read_in_its_order(tmp_path):
    for at, name in enumerate(("b.arrow", "a.arrow")):
        table = pa.Table.from_pylist(ROWS[at * 20 : at * 20 + 20])
        with pa.ipc.new_stream(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
    state = {"_data_files": [{"filename": "b.arrow"}, {"filename": "a.arrow"}]}
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert read_all(tmp_path) == ROWS
    (tmp_path / "state.json").write_text("{}")
    assert "state.json: is damaged" in message(tmp_path)


def test_a_folder_of_splits_asks_for_one_of_them(tmp_path):
    (tmp_path / "dataset_dict.json").write_text("{}")
    for split in ("test", "train"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "state.json").write_text("{}")
    assert "holds the splits test, train; name one of them" in message(tmp_path)


def test_a_cut_arrow_file_is_named(tmp_path):
    path = tmp_path / "a.arrow"
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"a\.arrow: cannot be read \(.*fetch it again"):
        read_all(path)
