import json

import pytest

from longrun.config.benchmarks import Benchmark
from longrun.errors import ConfigError, InputError
from longrun.formats.benchmarks import read_benchmark


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
        ([row(), '{"problem": "x"'], "b.jsonl:2: is not valid JSON"),
        ([row(), "[1]"], "b.jsonl:2: is not a JSON object but a list"),
        (['{"problem": "x"}'], "b.jsonl:1: no problem has an expected_answer; the columns are pr"),
        ([row(problem=3)], "b.jsonl:1: field problem holds 3,"),
        ([row(expected_answer=" ")], "b.jsonl:1: no problem has an expected_answer"),
        ([row(mode="chat")], "b.jsonl:1: field mode holds 'chat'"),
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


def test_other_columns_stand_for_missing_ones(benchmark):
    line = json.dumps({"question": "1+1", "answer": "so 2\n#### 2", "id": "own", "level": 3})
    entry = benchmark(
        line,
        columns={"problem": ["question"], "expected_answer": ["answer", "other"], "id": ["level"]},
        answer_after="####",
    )
    (problem,) = read_benchmark(entry)
    assert (problem.problem, problem.expected_answer, problem.id) == ("1+1", "2", "own")


def test_a_mark_without_an_answer_is_named(benchmark):
    entry = benchmark(row(expected_answer="work ####"), answer_after="####")
    with pytest.raises(InputError, match=r"b.jsonl:1: no problem has an expected_answer"):
        read_benchmark(entry)


def test_problems_without_an_answer_are_read_and_known(benchmark):
    entry = benchmark(row(id="a"), '{"problem": "x", "id": "b"}', row(id="c", expected_answer=None))
    assert [(one.id, one.expected_answer) for one in read_benchmark(entry)] == [
        ("a", "2"),
        ("b", ""),
        ("c", ""),
    ]


@pytest.mark.parametrize(
    ("name", "record", "answer", "source"),
    [
        ("gsm8k", {"question": "q", "answer": "1 + 1 = 2\n#### 2"}, "2", "b"),
        (
            "math-500",
            {"problem": "q", "answer": r"\frac{1}{2}", "subject": "Algebra", "unique_id": "t/1"},
            r"\frac{1}{2}",
            "Algebra",
        ),
        (
            "comp-math-24-25",
            {"problem": "q", "expected_answer": "7", "subset_for_metrics": "aime24"},
            "7",
            "aime24",
        ),
        ("aime25", {"problem": "q", "answer": 588}, "588", "b"),
    ],
)
def test_known_benchmarks_read_their_published_columns(tmp_path, name, record, answer, source):
    path = tmp_path / "b.jsonl"
    path.write_text(json.dumps(record) + "\n")
    (problem,) = read_benchmark(Benchmark(name="b", path=path, like=name, limit=1))
    assert (problem.problem, problem.expected_answer, problem.source) == ("q", answer, source)


def test_a_file_that_is_not_the_whole_benchmark_is_named(tmp_path):
    path = tmp_path / "b.jsonl"
    path.write_text("".join(row(id=str(n)) + "\n" for n in range(29)))
    with pytest.raises(InputError, match="holds 29 problems, aime24 has 30"):
        read_benchmark(Benchmark(name="b", path=path, like="aime24"))
    assert len(read_benchmark(Benchmark(name="b", path=path, like="aime24", problems=None))) == 29


def test_a_benchmark_of_ones_own_is_a_yaml_file_and_a_file_of_problems(tmp_path):
    path, entry = tmp_path / "b.jsonl", tmp_path / "mine.yaml"
    path.write_text(json.dumps({"frage": "1+1", "antwort": 2}) + "\n")
    entry.write_text("mode: tir\ncolumns: {problem: [frage], expected_answer: [antwort]}\n")
    (problem,) = read_benchmark(Benchmark(name="b", path=path, like=str(entry)))
    assert (problem.problem, problem.expected_answer, problem.mode) == ("1+1", "2", "tir")


@pytest.mark.parametrize(
    ("like", "message"),
    [("aime2", "did you mean aime2"), ("none.yaml", "is no YAML file with the settings")],
)
def test_an_unknown_benchmark_names_the_nearest(like, message):
    with pytest.raises(ConfigError, match=message):
        Benchmark.parse({"name": "b", "path": "b", "like": like}, "benchmarks.0")
