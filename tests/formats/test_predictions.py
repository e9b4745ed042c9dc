import json

import pytest

from longrun.config.stages import Benchmark
from longrun.errors import InputError
from longrun.formats.predictions import (
    Grade,
    Prediction,
    Summary,
    read_benchmark,
    read_grades,
    read_predictions,
    read_summary,
    write_rows,
)

PREDICTION = Prediction(
    id="a",
    sample=1,
    mode="tir",
    source="s",
    problem="p",
    prompt_tokens=5,
    expected_answer="1",
    candidates=[],
    generation="x \u221a\n",
    pieces=[("answer", "x \u221a\n")],
    finish="budget",
    tokens=3,
    code_calls=2,
    code_errors=1,
)
GRADE = Grade(
    **{name: getattr(PREDICTION, name) for name in PREDICTION.__struct_fields__},
    predicted_answer=None,
    correct=False,
    verdict="no answer",
    why="states no final answer",
)


@pytest.fixture
def benchmark(tmp_path):
    def write(*lines, **options):
        path = tmp_path / "b.jsonl"
        path.write_text("".join(f"{line}\n" for line in lines))
        return Benchmark(name="bench", path=path, **options)

    return write


def row(**columns):
    return json.dumps({"problem": "1+1", "expected_answer": "2"} | columns)


def test_what_a_row_leaves_out_is_filled_in(benchmark):
    problems = read_benchmark(benchmark(row(), row(id="own", mode="tir", source="x")))
    assert [(p.id, p.mode, p.source) for p in problems] == [
        ("bench-1", "cot", "bench"),
        ("own", "tir", "x"),
    ]
    assert problems[0].total_code_executions is None


def test_numbers_may_stand_for_answers_and_ids_and_other_columns_stay(benchmark):
    (problem,) = read_benchmark(benchmark(row(expected_answer=42, id=7, subject="algebra")))
    assert (problem.expected_answer, problem.id) == ("42", "7")
    assert problem.record["subject"] == "algebra"


def test_the_limit_takes_the_first(benchmark):
    entry = benchmark(row(id="a"), "", row(id="b"), "broken", limit=2)
    assert [(problem.id, problem.line) for problem in read_benchmark(entry)] == [("a", 1), ("b", 3)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds no problem"),
        ([row(), '{"problem": "x"'], "b.jsonl:2: is not a whole JSON object"),
        ([row(), "[1]"], "b.jsonl:2: Expected object"),
        ([row(), '{"problem": "x"}'], "b.jsonl:2: has no field expected_answer"),
        ([row(problem=3)], r"b.jsonl:1: Expected str, got int - at \$.problem"),
        ([row(expected_answer=" ")], "b.jsonl:1: expected_answer is empty"),
        ([row(mode="chat")], "b.jsonl:1: Invalid enum value 'chat'"),
        ([row(mode="genselect")], "b.jsonl:1: candidates is missing"),
        ([row(total_code_executions=-1)], "total_code_executions is -1; it must be at least 0"),
        ([row(id="a"), row(id="a")], "b.jsonl:2: id: 'a' is also the id in line 1"),
    ],
)
def test_a_bad_benchmark_is_named_by_file_line_and_field(benchmark, lines, message):
    with pytest.raises(InputError, match=message) as error:
        read_benchmark(benchmark(*lines))
    assert "\n" not in str(error.value)


def test_a_missing_benchmark_is_named(tmp_path):
    with pytest.raises(InputError, match="does not exist; name a JSONL file"):
        read_benchmark(Benchmark(name="b", path=tmp_path / "none.jsonl"))
    with pytest.raises(InputError, match="is a folder"):
        read_benchmark(Benchmark(name="b", path=tmp_path))


def test_rows_survive_writing_and_reading(tmp_path):
    write_rows(tmp_path / "p.jsonl", [PREDICTION, PREDICTION])
    assert read_predictions(tmp_path / "p.jsonl") == [PREDICTION, PREDICTION]
    write_rows(tmp_path / "g.jsonl", [GRADE])
    assert read_grades(tmp_path / "g.jsonl") == [GRADE]


def test_a_file_cut_anywhere_is_noticed_or_shorter_by_whole_lines(tmp_path):
    path = tmp_path / "p.jsonl"
    write_rows(path, [PREDICTION, PREDICTION])
    whole = path.read_bytes()
    end_of_first = whole.index(b"\n")
    for length in range(1, len(whole) - 1):
        path.write_bytes(whole[:length])
        if length in (end_of_first, end_of_first + 1):
            assert read_predictions(path) == [PREDICTION]
            continue
        line = 1 if length <= end_of_first else 2
        with pytest.raises(InputError, match=f"p.jsonl:{line}: is not a whole JSON object"):
            read_predictions(path)


def test_a_field_that_is_wrong_is_named(tmp_path):
    path = tmp_path / "p.jsonl"
    write_rows(path, [PREDICTION])
    path.write_text(path.read_text().replace('"budget"', '"bored"'))
    with pytest.raises(InputError, match=r"Invalid enum value 'bored' - at \$.finish"):
        read_predictions(path)


def test_a_summary_that_is_not_there_or_damaged_is_named(tmp_path):
    with pytest.raises(InputError, match="does not exist; run `longrun evaluate` first"):
        read_summary(tmp_path)
    (tmp_path / "summary.json").write_text('{"rows": [')
    with pytest.raises(InputError, match="is damaged"):
        read_summary(tmp_path)
    (tmp_path / "summary.json").write_text('{"rows": [], "differences": []}')
    assert read_summary(tmp_path) == Summary(rows=[], differences=[])
