import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.evaluation.scores.summarise import (
    difference,
    majority_credit,
    paired_interval,
    problem_means,
    sampling_error,
    standard_error,
    summarise,
    summarise_parts,
    wilson_interval,
)
from longrun.formats.predictions import Grade


def grade(problem="p", answer="1", *, correct=False, finish="stop", **changes):
    verdict = "no answer" if answer is None else "right" if correct else "wrong"
    values = {
        "id": problem,
        "sample": 0,
        "mode": "cot",
        "source": "s",
        "problem": "?",
        "prompt_tokens": 3,
        "expected_answer": "1",
        "candidates": [],
        "generation": "",
        "pieces": [],
        "finish": finish,
        "tokens": 10,
        "code_calls": 0,
        "code_errors": 0,
        "predicted_answer": answer,
        "correct": correct,
        "verdict": verdict,
        "why": "",
    }
    return Grade(**values | changes)


def grades_of(*problems):
    return [
        grade(f"p{index}", correct=bool(right))
        for index, samples in enumerate(problems)
        for right in samples
    ]


def test_the_worked_trace_of_the_module():
    row = summarise("m", "b", grades_of((1, 1), (1, 0), (0, 0)))
    assert row.pass_at_1 == 0.5
    assert row.standard_error == pytest.approx(0.2887, abs=1e-4)
    assert (row.problems, row.samples) == (3, 2)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),
        (15, 30, 0.3315, 0.6685),
    ],
)
def test_one_sample_gives_the_published_wilson_intervals(right, count, low, high):
    means = [1.0] * right + [0.0] * (count - right)
    assert wilson_interval(means, samples=1) == pytest.approx((low, high), abs=2e-4)


def test_more_samples_narrow_the_interval_only_as_far_as_problems_allow():
    one = wilson_interval([1.0, 0.0] * 15, samples=1)
    many = wilson_interval([0.6, 0.4] * 15, samples=8)
    same = wilson_interval([0.5] * 30, samples=8)
    width = [high - low for low, high in (one, many, same)]
    assert width[0] > width[1] >= width[2]
    assert width[2] == pytest.approx(wilson_width(0.5, 240), abs=1e-9), (
        "never more than all samples as if independent"
    )


def wilson_width(p, count):
    z = 1.959963984540054
    return 2 * z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / 4 / count**2)


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=40))
def test_the_interval_holds_the_mean_and_stays_within_bounds(means):
    low, high = wilson_interval(means, samples=4)
    assert 0.0 <= low <= sum(means) / len(means) <= high <= 1.0
    assert high > low


def test_a_single_problem_has_no_standard_error():
    assert standard_error([1.0]) is None
    assert summarise("m", "b", grades_of((1, 0))).standard_error is None


@pytest.mark.parametrize(
    ("votes", "credit"),
    [
        ([("1", True), ("1.0", True), ("2", False)], 1.0),
        ([("1", True), ("2", False), ("2.0", False)], 0.0),
        ([("1", True), ("2", False)], 0.5),
        ([("1", True), ("2", False), ("3", False)], 1 / 3),
        ([("1", True), (None, False), (None, False)], 1.0),
        ([(None, False), (None, False)], 0.0),
        ([("x+1", False), ("x + 1", False), ("1", True)], 0.0),
    ],
)
def test_the_vote_goes_by_meaning_and_ties_share_the_credit(votes, credit):
    assert majority_credit([grade(answer=a, correct=c) for a, c in votes]) == pytest.approx(credit)


def test_unfinished_means_no_answer_and_no_end():
    grades = [
        grade("a", None, finish="length"),
        grade("b", None, finish="stop"),
        grade("c", "1", correct=True, finish="length"),
        grade("d", None, finish="budget"),
    ]
    row = summarise("m", "b", grades)
    assert row.no_answer_rate == 0.75
    assert row.unfinished_rate == 0.5
    assert row.pass_at_1 == 0.25


def test_models_are_compared_on_the_problems_both_have():
    ours = grades_of((1, 1), (1, 0), (1, 1))
    theirs = grades_of((0, 0), (1, 0))
    row = difference("new", "old", "b", {"new": ours, "old": theirs})
    assert row.problems == 2
    assert row.difference == 0.5
    assert row.standard_error == pytest.approx(0.5)
    assert row.interval[0] < 0.5 < row.interval[1]


def test_models_without_a_common_problem_are_not_compared():
    grades = {"new": [grade("a")], "old": [grade("b")]}
    assert difference("new", "old", "b", grades) is None


def test_the_paired_interval_is_agresti_and_min_for_one_sample():
    wins, losses, ties = 12, 5, 33
    low, high = paired_interval([1.0] * wins + [-1.0] * losses + [0.0] * ties)
    count, b, c = 52, wins + 0.5, losses + 0.5
    middle = (b - c) / count
    half = 1.959963984540054 * math.sqrt(b + c - (b - c) ** 2 / count) / count
    assert (low, high) == pytest.approx((middle - half, middle + half))


def test_models_that_always_agree_still_have_an_interval():
    low, high = paired_interval([0.0] * 30)
    assert low == pytest.approx(-high)
    assert high > 0.02


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=10))
def test_the_mean_of_means_weighs_every_problem_equally(problems):
    means = list(problem_means(grades_of(*problems)).values())
    assert means == [sum(samples) / len(samples) for samples in problems]


def test_the_sampling_error_is_what_more_samples_remove():
    groups = [grades_of(samples) for samples in [(1, 0), (1, 1), (1, 0)]]
    assert sampling_error(groups) == pytest.approx(math.sqrt(0.25 + 0 + 0.25) / 3)
    assert sampling_error([grades_of((1,))]) is None


@pytest.mark.parametrize("k", [1, 2, 3])
def test_every_k_has_its_figures_and_k_one_is_pass_at_one(k):
    row = summarise("m", "b", grades_of((1, 0, 0), (1, 1, 0)))
    (entry,) = [entry for entry in row.at_k if entry.k == k]
    assert entry.pass_at_k == pytest.approx({1: 0.5, 2: 5 / 6, 3: 1.0}[k])
    # The wrong answers of ``grades_of`` are one class: two of three votes in the first problem.
    assert entry.majority == pytest.approx({1: 0.5, 2: 0.5, 3: 0.5}[k])
    assert entry.pass_interval[0] <= entry.pass_at_k <= entry.pass_interval[1]
    assert (entry.pass_interval == row.interval) == (k == 1)
    assert entry.best is None


def test_rewards_choose_among_the_samples():
    grades = [grade("p", correct=index == 1, sample=index) for index in range(3)]
    rewards = {("p", 0): 0.1, ("p", 1): 0.9, ("p", 2): 0.5}
    row = summarise("m", "b", grades, None, rewards)
    assert [entry.best for entry in row.at_k] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert [entry.k for entry in row.at_k] == [1, 2, 3]


def test_rows_of_a_group_are_one_problem():
    grades = [grade(f"p{n}/{r}", group=f"p{n}", correct=r < 2) for n in range(2) for r in range(3)]
    row = summarise("m", "b", grades, {"p0": 0.25, "p1": 0.75})
    assert (row.problems, row.samples, row.majority, row.chance) == (2, 3, 1.0, 0.5)


def test_sources_and_modes_have_rows_of_their_own():
    grades = [grade("a", correct=True, source="x"), grade("b", source="y", mode="tir")]
    rows = summarise_parts("m", "b", grades)
    assert [(row.source, row.mode, row.pass_at_1) for row in rows] == [
        ("x", "cot", 1.0),
        ("y", "tir", 0.0),
    ]
    assert summarise_parts("m", "b", grades[:1]) == []
