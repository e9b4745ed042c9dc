"""The head of the page."""

import os
from pathlib import Path

import pytest

from longrun.errors import InputError
from longrun.report.sections.overview import Overview, view_overview
from longrun.report.sections.training import view_training
from longrun.report.stages import read_stages


def view(folders: list[Path]) -> Overview:
    graph = read_stages(folders)
    return view_overview("A run", graph, view_training(graph))


def test_the_head_tells_model_data_training_and_time(miniature: list[Path]) -> None:
    figures = {figure.label: (figure.value, figure.detail) for figure in view(miniature).figures}
    assert figures["Model"] == ("723k", "parameters, 3 layers of width 128")
    assert figures["Data"] == ("484", "documents of 620 records, 69.2k tokens")
    assert figures["Training"] == ("80", "steps in 2 rounds, 655k tokens")
    assert figures["Time"] == ("4 min 42 s", "wall time, sum of 12 stages")


def test_the_time_is_that_of_the_last_manifest(miniature: list[Path]) -> None:
    for folder in miniature:
        os.utime(folder / "manifest.json", (0, 86_400))
    os.utime(miniature[2] / "manifest.json", (0, 2 * 86_400))
    assert view(miniature).finished == "03 January 1970, 00:00 UTC"


def test_what_the_run_has_not_is_left_out(miniature: list[Path]) -> None:
    assert [figure.label for figure in view(miniature[:1]).figures] == ["Time"]


def test_a_damaged_model_configuration_is_named(miniature: list[Path]) -> None:
    (miniature[9] / "final" / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"round-2/final/config\.json: is damaged"):
        view(miniature)
