import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.evaluation.grading.answers import (
    extract_answer,
    extract_boxed,
    extract_selected,
    first_number,
)

balanced = st.recursive(
    st.text(st.sampled_from("abc12 +-^\\_,"), max_size=6).filter(lambda text: "\\" not in text),
    lambda inner: st.builds("{}{{{}}}{}".format, inner, inner, inner),
    max_leaves=8,
)
harmless = st.text(st.sampled_from("xyz 12.\n$()"), max_size=30)


@given(balanced, harmless, harmless)
def test_any_balanced_content_comes_back_whole(content, before, after):
    found = extract_boxed(f"{before}\\boxed{{{content}}}{after}")
    assert found == (content.strip() or None)


@given(balanced, balanced, harmless)
def test_the_last_box_counts(first, last, between):
    text = f"\\boxed{{{first}}}{between}\\boxed{{{last}x}}"
    assert extract_boxed(text) == f"{last}x".strip()


@given(st.text(st.sampled_from("\\boxed{}ab </think>"), max_size=60))
def test_no_text_is_too_strange(text):
    found = extract_boxed(text)
    assert found is None or found == found.strip() != ""


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{1}</think>\boxed{2}", "2"),
        (r"<think>\boxed{1}</think>The answer is 1.", "1"),
        (r"<think>\boxed{1}, cut here", "1"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{}", None),
        (r"\boxed{3} \boxed{ }", "3"),
        (r"\boxed  {4}", "4"),
        (r"\boxed{x = \boxed{5}}", "5"),
        ("} } \\boxed{6}", "6"),
        ("{ \\boxed{7}", "7"),
        ("the answer is 5", None),
        ("", None),
    ],
)
def test_boxes_are_found_where_they_count(text, answer):
    assert extract_boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"$x = \boxed{1}$ or $x = \boxed{2}$", "1, 2"),
        (r"\boxed{1}, \boxed{2}, and \boxed{3}.", "1, 2, 3"),
        (r"\(\boxed{1}\) \text{ and } \(\boxed{2}\)", "1, 2"),
        (r"\boxed{3}, \boxed{3}", "3"),
        (r"first \boxed{1}, then I find \boxed{2}", "2"),
        (r"\boxed{1} \boxed{2}", "2"),
        ("\\boxed{1},\n\n\\boxed{2}", "2"),
        (r"\boxed{1},</think>\boxed{2}", "2"),
        (r"\boxed{1} and \boxed{2} so the sum is \boxed{3}", "3"),
        (r"\boxed{a = \boxed{1}, \boxed{2}}", "1, 2"),
    ],
)
def test_linked_boxes_are_one_answer(text, answer):
    assert extract_boxed(text) == answer


@pytest.mark.parametrize("text", ["\\boxed{" * 30_000, "{" * 200_000, "\n" * 200_000 + "Judgment"])
def test_hostile_text_costs_no_more_than_its_length(text):
    began = time.process_time()
    assert extract_boxed(text) is None
    assert extract_selected(text, ["1"], text) is None
    assert time.process_time() - began < 2.0


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("1 is wrong.\nJudgment: 0", "a"),
        ("Judgment: 0\nno\nJudgment: 1", "b"),
        ("**Judgment: [1]**", "b"),
        ("Judgment: 2", None),
        ("Judgment: -1", "b"),
        ("Judgment: 1 or 0", None),
        ("I judge 1", None),
        ("", None),
    ],
)
def test_the_last_judgment_line_chooses(text, chosen):
    assert extract_selected(text, ["a", "b"], "Solution 0: x\nSolution 1: y") == chosen


def test_candidates_count_as_the_prompt_counts_them():
    assert first_number("Solution 1: x\nSolution 2: y") == 1
    assert first_number("### Solution 0:\nx\n### Solution 1:\ny") == 0
    assert first_number("pick one") == 0
    problem = "Solution 1: x\nSolution 2: y"
    assert extract_answer("Judgment: 2", "genselect", ["a", "b"], problem) == "b"
    assert extract_answer("Judgment: 0", "genselect", ["a", "b"], problem) is None


def test_many_boxes_cost_no_more_than_their_length():
    began = time.process_time()
    assert extract_boxed("\\boxed{1}, " * 30_000) == "1"
    assert extract_boxed("\\boxed{1}" + "a = " * 30_000 + "\\boxed{2}") == "2"
    assert time.process_time() - began < 2.0


def test_other_modes_do_not_judge():
    assert extract_answer("Judgment: 0", "cot", [], "") is None
    assert extract_answer(r"\boxed{3}", "tir", [], "") == "3"
