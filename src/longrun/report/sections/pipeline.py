"""The picture of the pipeline: boxes in columns, arrows from the stage that made to the reader.

Layered drawing after Sugiyama, Tagawa and Toda 1981: a stage stands as far right as its readers
allow, arrows over several columns get a lane in each of them so that they run around boxes (those
of one maker share it), a few sweeps put every place near the mean of its neighbours. Lengths are
CSS pixels.

Trace: ``a -> b -> c`` and ``a -> c`` make columns ``[a] [b, lane of a] [c]``; the second arrow
passes below ``b``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from longrun.formats.stages.progress import format_count, format_seconds
from longrun.report.stages import FinishedStage, Graph

BOX_WIDTH, BOX_HEIGHT = 108.0, 68.0
_COLUMN_GAP, _ROW_GAP, _LANE_HEIGHT = 24.0, 14.0, 6.0
_MARGIN = 6.0
_SWEEPS = 8
_MOST_CHARS = 20
_MAIN_COUNTS = ("documents", "packs", "steps", "solutions")
"""Counts that say most about their stage; any other stage shows the first it has."""

Place = tuple[int, ...]
"""``(stage,)`` for a box, ``(maker, column)`` for the lane of its arrows that pass a column."""


@dataclass(frozen=True, slots=True)
class Box:
    """One stage; ``x`` and ``y`` are its upper left corner."""

    name: str
    title: str
    """The whole text, for a tooltip."""
    lines: list[str]
    """Verb, where the name is another, main count, time."""
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Picture:
    """Boxes and the SVG paths of the arrows between them."""

    width: float
    height: float
    boxes: list[Box]
    arrows: list[str]
    description: str


def draw_pipeline(graph: Graph) -> Picture:
    """Lay the stages of ``graph`` out from left to right."""
    edges = sorted(graph.edges)
    column = _column_of(len(graph.stages), edges)
    routes = [_route(maker, reader, column) for maker, reader in edges]
    columns = _columns(column, routes)
    centres = _centres(columns, {link for route in routes for link in pairwise(route)})
    top = min(y - _height(place) / 2 for place, y in centres.items()) - _MARGIN
    bottom = max(y + _height(place) / 2 for place, y in centres.items()) + _MARGIN
    at = {
        place: (_MARGIN + index * (BOX_WIDTH + _COLUMN_GAP), centres[place] - top)
        for index, places in enumerate(columns)
        for place in places
    }
    boxes = [_box(stage, *at[(index,)]) for index, stage in enumerate(graph.stages)]
    arrows = [_arrow([at[place] for place in route]) for route in routes]
    width = 2 * _MARGIN + len(columns) * BOX_WIDTH + (len(columns) - 1) * _COLUMN_GAP
    return Picture(width, bottom - top, boxes, arrows, _describe(graph))


def _route(maker: int, reader: int, column: Sequence[int]) -> list[Place]:
    """Return the places of an arrow: its maker, a lane per column between, its reader."""
    lanes: list[Place] = [(maker, passed) for passed in range(column[maker] + 1, column[reader])]
    return [(maker,), *lanes, (reader,)]


def _columns(column: Sequence[int], routes: Iterable[Sequence[Place]]) -> list[list[Place]]:
    """Return the boxes and lanes of every column."""
    columns: list[list[Place]] = [[] for _ in range(max(column) + 1)]
    for index, at in enumerate(column):
        columns[at].append((index,))
    lanes = {place for route in routes for place in route if len(place) > 1}
    for lane in sorted(lanes):
        columns[lane[1]].append(lane)
    return columns


def _column_of(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    column = [0] * count
    for maker, reader in sorted(edges, key=lambda edge: edge[1]):
        column[reader] = max(column[reader], column[maker] + 1)
    for index in reversed(range(count)):
        readers = [column[reader] for maker, reader in edges if maker == index]
        if readers:
            column[index] = min(readers) - 1
    return column


def _centres(
    columns: list[list[Place]], links: Iterable[tuple[Place, Place]]
) -> dict[Place, float]:
    """Return the vertical centre of every place; orders the columns in place."""
    near: dict[Place, list[Place]] = {place: [] for column in columns for place in column}
    for one, two in links:
        near[one].append(two)
        near[two].append(one)
    centres: dict[Place, float] = {}
    for column in columns:
        centres.update(_stack(column, [0.0] * len(column)))
    for _ in range(_SWEEPS):
        for column in columns:
            wanted = {
                place: fmean(centres[other] for other in near[place]) if near[place] else 0.0
                for place in column
            }
            # Boxes above lanes where they want the same height: the straight way is the main one.
            column.sort(key=lambda place: (wanted[place], len(place)))
            centres.update(_stack(column, [wanted[place] for place in column]))
    return centres


def _stack(column: Sequence[Place], wanted: Sequence[float]) -> dict[Place, float]:
    """Place ``column`` from top to bottom without overlap, as near to ``wanted`` as a shift can."""
    centres: list[float] = []
    for index, place in enumerate(column):
        lowest = wanted[index]
        if centres:
            apart = (_height(column[index - 1]) + _height(place)) / 2 + _ROW_GAP
            lowest = max(lowest, centres[-1] + apart)
        centres.append(lowest)
    shift = fmean(want - got for want, got in zip(wanted, centres, strict=True))
    return {place: y + shift for place, y in zip(column, centres, strict=True)}


def _height(place: Place) -> float:
    return BOX_HEIGHT if len(place) == 1 else _LANE_HEIGHT


def _arrow(points: Sequence[tuple[float, float]]) -> str:
    """Return an SVG path from the right of the first place to the left of the last."""
    x, y = points[0][0] + BOX_WIDTH, points[0][1]
    path = f"M{x:.1f} {y:.1f}"
    for index, (left, centre) in enumerate(points[1:], 1):
        last = index == len(points) - 1
        end = left - (5.0 if last else 0.0)
        middle = (x + end) / 2
        path += f"C{middle:.1f} {y:.1f} {middle:.1f} {centre:.1f} {end:.1f} {centre:.1f}"
        if not last:
            path += f"H{left + BOX_WIDTH:.1f}"
        x, y = left + BOX_WIDTH, centre
    return path


def _box(stage: FinishedStage, x: float, centre: float) -> Box:
    counts = stage.manifest.counts
    names = sorted(counts, key=lambda name: (name not in _MAIN_COUNTS, list(counts).index(name)))
    figures = [f"{format_count(counts[name])} {name.replace('_', ' ')}" for name in names]
    seconds = format_seconds(stage.manifest.wall_seconds)
    title = f"{stage.name} ({stage.verb}): {', '.join([*figures, seconds])}"
    verb = [] if stage.verb == stage.name else [stage.verb]
    return Box(
        name=_short(stage.name),
        title=title,
        lines=[_short(line) for line in [*verb, *figures[:1], seconds]],
        x=x,
        y=centre - BOX_HEIGHT / 2,
    )


def _short(text: str) -> str:
    return text if len(text) <= _MOST_CHARS else text[: _MOST_CHARS - 1] + "\u2026"


def _describe(graph: Graph) -> str:
    names = [stage.name for stage in graph.stages]
    arrows = [f"{names[maker]} to {names[reader]}" for maker, reader in sorted(graph.edges)]
    return f"{len(names)} stages: {', '.join(names)}. Arrows: {'; '.join(arrows) or 'none'}."
