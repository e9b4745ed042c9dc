"""Which solutions are shown, and how long ones are cut."""

import json
from html import escape
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.errors import InputError
from longrun.report.page import render_page
from longrun.report.report import view_page
from longrun.report.sections.samples import (
    MOST_OF_EACH,
    SamplesView,
    cut_middle,
    spread,
    view_samples,
)
from longrun.report.stages import read_stages

TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
PIECES = st.lists(st.tuples(st.sampled_from(["THINKING", "CODE"]), TEXT), max_size=6)


def view(folders: list[Path], **bounds: int) -> SamplesView:
    found = view_samples(read_stages(folders), **bounds)
    assert found is not None
    return found


def test_every_model_and_benchmark_shows_right_and_wrong_solutions(miniature: list[Path]) -> None:
    found = view(miniature)
    assert len(found.groups) == 9
    assert found.models == ["base", "round-1", "round-2"]
    for group in found.groups:
        right = sum(sample.grade.correct for sample in group.samples)
        assert right == min(group.right, MOST_OF_EACH)
        assert len(group.samples) - right == min(group.solutions - group.right, MOST_OF_EACH)
    assert found.kinds == ["THINKING", "CODE", "TOOL_OUTPUT", "NOTICE", "ANSWER"]


def test_samples_share_a_budget(miniature: list[Path]) -> None:
    few = view(miniature, total_bytes=9 * 4000)
    assert all(1 <= len(group.samples) <= 3 for group in few.groups)


def test_missing_grades_are_named(miniature: list[Path]) -> None:
    (miniature[-1] / "grades" / "base" / "tir.jsonl").unlink()
    with pytest.raises(InputError, match=r"grades/base/tir\.jsonl"):
        view(miniature)


@given(PIECES, st.integers(0, 400))
def test_a_cut_solution_fits_and_accounts_for_every_character(
    pieces: list[tuple[str, str]], most: int
) -> None:
    shown, left_out = cut_middle(pieces, most)
    text = "".join(piece.text for piece in shown)
    whole = "".join(text for _, text in pieces)
    assert len(text) + left_out == len(whole)
    assert len(escape(text).encode()) <= max(most, 0) or not left_out
    assert (left_out > 0) == any(piece.kind == "left out" for piece in shown)


def test_a_cut_keeps_the_beginning_and_the_end() -> None:
    shown, left_out = cut_middle([("THINKING", "a" * 90), ("ANSWER", "b" * 30)], 60)
    assert [(piece.kind, piece.text) for piece in shown] == [
        ("THINKING", "a" * 40),
        ("left out", ""),
        ("ANSWER", "b" * 20),
    ]
    assert left_out == 60


@given(st.lists(st.integers(), max_size=50), st.integers(1, 10))
def test_spread_takes_in_order_from_the_whole_length(items: list[int], count: int) -> None:
    taken = spread(list(enumerate(items)), count)
    assert taken == sorted(set(taken))
    assert len(taken) == min(count, len(items))


def test_the_page_filters_by_every_verdict_that_occurs(miniature: list[Path]) -> None:
    path = miniature[-1] / "grades" / "base" / "cot.jsonl"
    first, *rest = path.read_text().splitlines()
    silent = json.loads(first) | {"verdict": "no answer", "correct": False}
    path.write_text("\n".join([json.dumps(silent), *rest]) + "\n")
    graph = read_stages(miniature)
    found = view_samples(graph)
    assert found is not None
    assert found.verdicts == ["right", "wrong", "no answer"]
    page = render_page(view_page("run", graph))
    assert "<option>no answer</option>" in page
    assert page.count('data-grade="no answer"') == 1
