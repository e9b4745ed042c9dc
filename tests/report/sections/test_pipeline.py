"""The picture of the pipeline: boxes apart, arrows from left to right."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.formats.stages.manifest import Manifest
from longrun.report.sections.pipeline import BOX_HEIGHT, BOX_WIDTH, Picture, draw_pipeline
from longrun.report.stages import FinishedStage, Graph, read_stages


def graph(count: int, edges: set[tuple[int, int]]) -> Graph:
    manifest = Manifest(
        verb="train", fingerprint="", settings={}, inputs={}, revision=1, version="", outputs={}
    )
    stages = tuple(FinishedStage(f"s{i}", Path(f"s{i}"), manifest, 0.0) for i in range(count))
    return Graph(stages, frozenset(edges))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    count = draw(st.integers(1, 8))
    pairs = list(itertools.combinations(range(count), 2))
    edges = set(draw(st.lists(st.sampled_from(pairs), max_size=14))) if pairs else set()
    return graph(count, edges)


def overlaps(picture: Picture) -> list[tuple[str, str]]:
    return [
        (one.name, two.name)
        for one, two in itertools.combinations(picture.boxes, 2)
        if abs(one.x - two.x) < BOX_WIDTH and abs(one.y - two.y) < BOX_HEIGHT
    ]


@given(graphs())
def test_boxes_never_overlap_and_stay_inside_the_picture(drawn: Graph) -> None:
    picture = draw_pipeline(drawn)
    assert overlaps(picture) == []
    for box in picture.boxes:
        assert 0 <= box.x <= picture.width - BOX_WIDTH
        assert 0 <= box.y <= picture.height - BOX_HEIGHT


@given(graphs())
def test_every_reader_stands_right_of_its_makers(drawn: Graph) -> None:
    picture = draw_pipeline(drawn)
    assert len(picture.arrows) == len(drawn.edges)
    for maker, reader in drawn.edges:
        assert picture.boxes[maker].x + BOX_WIDTH < picture.boxes[reader].x


def test_an_arrow_over_a_column_runs_around_its_box() -> None:
    picture = draw_pipeline(graph(3, {(0, 1), (1, 2), (0, 2)}))
    middle = picture.boxes[1]
    long = picture.arrows[1]
    level = float(long.split("H")[0].split()[-1])
    assert not middle.y <= level <= middle.y + BOX_HEIGHT


def test_a_box_shows_name_verb_main_count_and_time(miniature: list[Path]) -> None:
    picture = draw_pipeline(read_stages(miniature))
    box = next(box for box in picture.boxes if box.name == "round-1")
    assert box.lines == ["train", "40 steps", "1 min 35 s"]
    assert "round-1 to mean-1" in picture.description


@pytest.mark.parametrize("count", [1, 4])
def test_stages_without_arrows_stand_in_one_column(count: int) -> None:
    assert {box.x for box in draw_pipeline(graph(count, set())).boxes} == {6.0}
