"""The table of accuracies."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longrun.errors import InputError
from longrun.formats.predictions import AtK
from longrun.report.page import render_page
from longrun.report.plots import MOST_CURVES, SERIES, choose_curves, plot_at_k
from longrun.report.report import view_page
from longrun.report.sections.evaluation import EvaluationView, view_evaluation
from longrun.report.stages import read_stages


def view(folders: list[Path]) -> EvaluationView:
    found = view_evaluation(read_stages(folders))
    assert found is not None
    return found


def test_models_are_rows_and_benchmarks_are_columns(miniature: list[Path]) -> None:
    found = view(miniature)
    assert [row.model for row in found.models] == ["base", "round-1", "round-2"]
    assert [column.name for column in found.benchmarks] == ["cot", "tir", "genselect"]
    assert found.benchmarks[0].problems == (10, 10)
    assert [column.chance for column in found.benchmarks] == [None, None, (0.42, 0.42)]


def test_the_best_of_a_column_is_marked_and_ties_are_shared(miniature: list[Path]) -> None:
    found = view(miniature)
    for column in range(3):
        cells = [row.cells[column] for row in found.models]
        scores = [cell.figures.pass_at_1 for cell in cells if cell]
        marked = [cell.figures.pass_at_1 for cell in cells if cell and cell.best]
        assert marked == [score for score in scores if score == max(scores)]


def test_nobody_is_best_when_all_fail(writer: Callable[..., Any]) -> None:
    run = writer()
    predictions = run.stage("predictions", "generate", {}, {})
    found = view([run.evaluate(predictions, {"base": 0.0}, "scores")])
    assert not any(cell and cell.best for cell in found.models[0].cells)


def test_equal_labels_of_two_evaluations_are_told_apart(writer: Callable[..., Any]) -> None:
    run = writer()
    predictions = run.stage("predictions", "generate", {}, {})
    first = run.evaluate(predictions, {"base": 0.1, "model": 0.5}, "scores-1")
    second = run.evaluate(predictions, {"model": 0.9}, "scores-2")
    models = [row.model for row in view([first, second]).models]
    assert models == ["base", "model (scores-1)", "model (scores-2)"]


def test_a_missing_summary_is_named(miniature: list[Path]) -> None:
    (miniature[-1] / "summary.json").unlink()
    with pytest.raises(InputError, match=r"scores/summary\.json"):
        view(miniature)


def test_samples_give_curves_and_sources_give_rows(writer: Callable[..., Any]) -> None:
    run = writer()
    predictions = run.stage("predictions", "generate", {}, {})
    folder = run.evaluate(predictions, {"base": 0.5}, "scores")
    summary = json.loads((folder / "summary.json").read_text())
    at_k = [
        {
            "k": k,
            "pass_at_k": 0.5 + k / 10,
            "pass_interval": [0.3, 0.9],
            "majority": 0.5,
            "majority_interval": [0.3, 0.7],
            "best": None,
            "best_interval": None,
        }
        for k in (1, 2)
    ]
    summary["rows"][1]["at_k"] = at_k
    summary["parts"] = [summary["rows"][0] | {"source": "aime"}]
    (folder / "summary.json").write_text(json.dumps(summary))
    found = view([folder])
    assert found.sampled == [1]
    assert [(model, [one.k for one in curve]) for model, curve in found.curves(1)] == [
        ("base", [1, 2])
    ]
    assert [(model, row.source) for model, row in found.parts] == [("base", "aime")]
    (plot,) = plot_at_k(found)
    assert "pass@k and majority@k on tir" in plot
    view_of_page = render_page(view_page("Samples", read_stages([folder])))
    assert "majority@k dashed" in view_of_page
    assert "<td>aime</td>" in view_of_page
    assert "best@k" not in view_of_page  # no rewards were given


def test_a_plot_by_samples_has_a_colour_for_every_model_it_shows() -> None:
    def curve(score: float) -> list[AtK]:
        return [
            AtK(
                k=1, pass_at_k=score, pass_interval=(0, 1), majority=score,
                majority_interval=(0, 1), best=None, best_interval=None,
            )
        ]  # fmt: skip

    curves = [(f"model-{n}", curve((n * 7 % 11) / 11)) for n in range(11)]
    chosen = choose_curves(curves)
    assert len(chosen) == MOST_CURVES == len(set(SERIES))
    assert [entry for entry in curves if entry in chosen] == chosen
    left_out = [one[0].pass_at_k for name, one in curves if (name, one) not in chosen]
    assert max(left_out) < min(one[0].pass_at_k for _, one in chosen)
