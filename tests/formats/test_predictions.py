import pytest

from longrun.errors import InputError
from longrun.formats.predictions import (
    Grade,
    Prediction,
    Summary,
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
        with pytest.raises(InputError, match=f"p.jsonl:{line}: is not valid (JSON|UTF-8)"):
            read_predictions(path)


def test_a_field_that_is_wrong_is_named(tmp_path):
    path = tmp_path / "p.jsonl"
    write_rows(path, [PREDICTION])
    path.write_text(path.read_text().replace('"budget"', '"bored"'))
    with pytest.raises(InputError, match=r"field finish holds 'bored', which is not of its kind"):
        read_predictions(path)


def test_a_summary_that_is_not_there_or_damaged_is_named(tmp_path):
    with pytest.raises(InputError, match="does not exist; run `longrun evaluate` first"):
        read_summary(tmp_path)
    (tmp_path / "summary.json").write_text('{"rows": [')
    with pytest.raises(InputError, match="is damaged"):
        read_summary(tmp_path)
    (tmp_path / "summary.json").write_text('{"rows": [], "differences": []}')
    assert read_summary(tmp_path) == Summary(rows=[], differences=[])
