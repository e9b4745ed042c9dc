import json

import pytest

from longrun.config.filters import Filter
from longrun.data.records.filters import FilterChain, require_text
from longrun.errors import InputError

RECORD = {
    "inference_mode": "cot",
    "problem_source": "aops_c5_contests",
    "problem_type": "converted_proof",
    "pass_rate_72b_tir": "0.25",
    "generated_solution": "<think>\\boxed{1}</think>\nIt is \\boxed{1}.",
}


def chain(*filters: dict) -> FilterChain:
    return FilterChain([Filter.model_validate(one) for one in filters])


def refusal(one: dict, **columns: object) -> str | None:
    filters = chain(one)
    position = filters.refuse(RECORD | columns)
    return None if position is None else filters.reason(position)


@pytest.mark.parametrize("column", ["problem_source", "problem_type", "inference_mode"])
def test_a_list_keeps_what_it_names(column):
    assert refusal({column: [RECORD[column], "other"]}) is None
    assert refusal({column: ["other"]}) == f"filter {column}"


@pytest.mark.parametrize(
    ("rate", "passes"),
    [("0.3", True), ("0.31", False), ("n/a", False), (0.1, True), ("0.0", False)],
)
def test_pass_rates_are_bounded_and_unknown_ones_dropped(rate, passes):
    found = refusal({"pass_rate": {"min": 0.05, "max": 0.3}}, pass_rate_72b_tir=rate)
    assert (found is None) == passes


def test_a_pass_rate_that_is_no_number_is_an_error():
    with pytest.raises(InputError, match=r"pass_rate_72b_tir: expected a number or 'n/a', got 'hi"):
        refusal({"pass_rate": {"max": 0.3}}, pass_rate_72b_tir="high")


def test_the_boxed_answer_must_stand_after_the_thinking():
    assert refusal({"boxed_answer": True}) is None
    only_inside = "<think>\\boxed{1}</think>\nIt is 1."
    assert refusal({"boxed_answer": True}, generated_solution=only_inside) == "filter boxed_answer"
    assert refusal({"boxed_answer": False}, generated_solution=only_inside) is None
    assert (
        refusal({"boxed_answer": True}, generated_solution="1", inference_mode="genselect") is None
    )


def test_the_first_filter_that_refuses_is_named():
    filters = chain({"problem_type": ["x"]}, {"problem_source": ["y"]})
    assert filters.refuse(RECORD) == 0


def test_token_bounds_apply_to_their_modes_alone():
    filters = chain({"response_tokens": {"min": 10, "max": 20}})
    assert filters.refuse(RECORD) is None
    for tokens, refused in ((9, 0), (10, None), (20, None), (21, 0)):
        assert filters.refuse_by_tokens("cot", 1, tokens, None) == refused
    assert filters.refuse_by_tokens("genselect", 1, 1, None) is None


def test_a_token_filter_before_a_later_refusal_is_asked_first():
    filters = chain({"response_tokens": {"min": 10}}, {"problem_type": ["x"]})
    position = filters.refuse(RECORD)
    assert position == 1
    assert filters.counts_tokens_before(1)
    assert filters.refuse_by_tokens("cot", 1, 5, position) == 0
    assert filters.refuse_by_tokens("cot", 1, 50, position) == 1


def test_a_missing_column_is_named_with_the_remedy():
    with pytest.raises(
        InputError, match=r"column problem is missing; the record has a, b; map one"
    ):
        require_text({"a": 1, "b": 2}, "problem")
    with pytest.raises(InputError, match="column problem: expected text, got int"):
        require_text({"problem": 1}, "problem")


def test_token_bounds_of_prompts_count_the_prompt():
    filters = chain({"prompt_tokens": {"max": 7}}, {"response_tokens": {"max": 0}})
    assert filters.refuse_by_tokens("cot", 8, 0, None) == 0
    assert filters.refuse_by_tokens("cot", 7, 1, None) == 1
    assert filters.refuse_by_tokens("cot", 7, 0, None) is None


@pytest.mark.parametrize(
    ("answer", "expected", "passes"),
    [
        ("\\boxed{1} no, \\boxed{\\frac{1}{2}}", "$\\frac{1} {2}$", True),
        ("\\boxed{2}", "1", False),
        ("It is 1.", "1", False),
        ("\\boxed{1", "1", False),
    ],
)
def test_the_last_boxed_answer_must_be_the_expected_one(answer, expected, passes):
    columns = {"generated_solution": f"<think>\\boxed{{1}}</think>{answer}"}
    found = refusal({"expected_answer": True}, expected_answer=expected, **columns)
    assert (found is None) == passes


def test_a_repeated_record_is_refused_by_the_filter_of_duplicates_in_its_place():
    filters = chain({"problem_type": ["converted_proof"]}, {"duplicates": "problem"})
    assert filters.duplicates_by == "problem"
    assert filters.refuse(RECORD) is None
    assert filters.reason(filters.refuse(RECORD, repeats=True)) == "filter duplicates"


@pytest.mark.parametrize(
    ("problem", "passes"),
    [
        ("Let x be a prime, then FIND the sum of its digits!", False),
        ("find the sum of its divisors", True),
        ("We ask: what is 1+1?", False),
        ("What is 1+2?", True),
        ("", True),
    ],
)
def test_problems_that_share_words_with_a_benchmark_are_refused(problem, passes, tmp_path):
    path = tmp_path / "benchmark.jsonl"
    rows = [{"problem": "Now find the sum of its digits."}, {"problem": "What is 1+1?"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    one = {"contamination": {"benchmarks": [str(path)], "ngram": 6}}
    assert (refusal(one, problem=problem) is None) == passes


def test_a_damaged_benchmark_is_named_with_its_line(tmp_path):
    path = tmp_path / "benchmark.jsonl"
    path.write_text('{"problem": "x"}\n{"question": "y"}\n')
    with pytest.raises(InputError, match=r"benchmark\.jsonl:2: has no field problem"):
        chain({"contamination": {"benchmarks": [str(path)]}})
