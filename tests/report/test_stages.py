"""Finding out which stage made what another one read."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longrun.errors import InputError
from longrun.report.stages import Graph, read_stages


def names(graph: Graph) -> list[str]:
    return [stage.name for stage in graph.stages]


def arrows(graph: Graph) -> set[tuple[str, str]]:
    return {(graph.stages[one].name, graph.stages[two].name) for one, two in graph.edges}


def test_an_input_inside_an_output_folder_makes_an_arrow(miniature: list[Path]) -> None:
    graph = read_stages(miniature)
    assert names(graph) == [folder.name for folder in miniature]
    assert {("problems", "documents"), ("mean-1", "round-2")} <= arrows(graph)
    assert ("scores", "predictions") not in arrows(graph)


def test_makers_stand_before_readers_whatever_the_given_order(miniature: list[Path]) -> None:
    graph = read_stages(sorted(miniature, reverse=True))
    assert all(maker < reader for maker, reader in graph.edges)
    assert arrows(graph) == arrows(read_stages(miniature))


def test_folders_that_moved_are_known_by_their_content(
    miniature: list[Path], tmp_path: Path
) -> None:
    shutil.move(tmp_path / "run", tmp_path / "moved")
    graph = read_stages([tmp_path / "moved" / folder.name for folder in miniature])
    assert ("documents", "packs") in arrows(graph)


def test_a_stage_knows_its_makers(miniature: list[Path]) -> None:
    graph = read_stages(miniature)
    round_2 = next(stage for stage in graph.stages if stage.name == "round-2")
    assert [stage.name for stage in graph.makers(round_2)] == ["mean-1", "hard-packs"]


def test_a_folder_named_twice_is_refused(miniature: list[Path]) -> None:
    with pytest.raises(InputError, match="named twice"):
        read_stages([miniature[0], miniature[0]])


def test_a_circle_is_refused(writer: Callable[..., Any]) -> None:
    run = writer()
    one = run.stage("one", "average", {"from": [run.root / "two" / "x"]}, {})
    two = run.stage("two", "average", {"from": [one / "x"]}, {})
    with pytest.raises(InputError, match="reads its own output"):
        read_stages([one, two])
