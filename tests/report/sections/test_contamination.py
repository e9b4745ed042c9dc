"""Benchmark problems among the training problems."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from longrun.formats.contamination import BenchmarkFindings, Contamination, Match
from longrun.formats.predictions import write_rows
from longrun.report.page import render_page
from longrun.report.report import view_page
from longrun.report.sections.contamination import MOST_MATCHES, view_contamination
from longrun.report.stages import read_stages


def findings(writer: Callable[..., Any], kinds: list[str], text: str = "What is 1+1?") -> Path:
    folder: Path = writer().stage("check", "check_contamination", {}, {"found": len(kinds)})
    figures = BenchmarkFindings(
        benchmark="gsm8k", problems=40, same_text=kinds.count("same text"),
        all_words=kinds.count("all words"), n_words=kinds.count("n words"),
        training_problems=len(kinds), documents=3 * len(kinds),
    )  # fmt: skip
    whole = Contamination(ngram=13, documents=900, training_problems=300, benchmarks=[figures])
    (folder / "contamination.json").write_bytes(msgspec.json.encode(whole))
    matches = [
        Match(
            benchmark="gsm8k", id=f"gsm8k-{place}", kind=kind, overlap=place / 100,
            problem=text, training_problem=f"longer: {text}", folder="prepare", split="train",
            document=place, documents=3, source="a.jsonl:7", mode="cot",
        )
        for place, kind in enumerate(kinds)
    ]  # fmt: skip
    write_rows(folder / "matches.jsonl", matches)
    return folder


def test_the_strongest_matches_are_shown_and_all_are_counted(writer: Callable[..., Any]) -> None:
    kinds = ["n words"] * MOST_MATCHES + ["same text", "all words"]
    (view,) = view_contamination(read_stages([findings(writer, kinds)]))
    assert (len(view.matches), view.num_matches) == (MOST_MATCHES, MOST_MATCHES + 2)
    assert [one.kind for one in view.matches[:3]] == ["same text", "all words", "n words"]
    overlaps = [one.overlap for one in view.matches[2:]]
    assert overlaps == sorted(overlaps, reverse=True)
    assert overlaps[0] == 0.19


def test_a_problem_is_shown_once_with_its_strongest_match(writer: Callable[..., Any]) -> None:
    folder = findings(writer, ["n words", "all words", "n words"])
    lines = [json.loads(line) for line in (folder / "matches.jsonl").read_text().splitlines()]
    write_rows(folder / "matches.jsonl", [line | {"id": "same"} for line in lines])
    (view,) = view_contamination(read_stages([folder]))
    assert [one.kind for one in view.matches] == ["all words"]
    assert view.num_matches == 3


def test_the_page_shows_figures_and_problems_escaped(
    writer: Callable[..., Any], hostile: str
) -> None:
    graph = read_stages([findings(writer, ["all words"], hostile)])
    page = render_page(view_page("run", graph))
    assert "Benchmark problems in the training data" in page
    assert "2.5</td>" in page  # 1 of 40
    assert "a.jsonl:7" in page
    assert hostile not in page


def test_a_run_without_the_check_says_nothing(miniature: list[Path]) -> None:
    page = render_page(view_page("run", read_stages(miniature)))
    assert "Benchmark problems in the training data" not in page
