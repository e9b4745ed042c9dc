import pytest

from longrun.config.filters import Filter
from longrun.data.filters import FilterChain, require_text
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
        assert filters.refuse_by_tokens("cot", tokens, None) == refused
    assert filters.refuse_by_tokens("genselect", 1, None) is None


def test_a_token_filter_before_a_later_refusal_is_asked_first():
    filters = chain({"response_tokens": {"min": 10}}, {"problem_type": ["x"]})
    position = filters.refuse(RECORD)
    assert position == 1
    assert filters.counts_tokens_before(1)
    assert filters.refuse_by_tokens("cot", 5, position) == 0
    assert filters.refuse_by_tokens("cot", 50, position) == 1


def test_a_missing_column_is_named_with_the_remedy():
    with pytest.raises(
        InputError, match=r"column problem is missing; the record has a, b; map one"
    ):
        require_text({"a": 1, "b": 2}, "problem")
    with pytest.raises(InputError, match="column problem: expected text, got int"):
        require_text({"problem": 1}, "problem")
