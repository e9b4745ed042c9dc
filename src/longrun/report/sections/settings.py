"""The settings of every stage, flattened, with what it read, made and took."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from longrun.report.stages import FinishedStage, Graph


@dataclass(frozen=True, slots=True)
class StageView:
    """One stage: settings by dotted name, inputs by path with the content's fingerprint."""

    name: str
    verb: str
    folder: str
    wall_seconds: float
    counts: dict[str, float]
    settings: list[tuple[str, str]]
    inputs: list[tuple[str, str, str]]
    """``(field, path, content fingerprint)``."""
    files: int
    bytes: int
    fingerprint: str
    version: str


def view_settings(graph: Graph) -> list[StageView]:
    """Return one view per stage, in order."""
    return [_view(stage) for stage in graph.stages]


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield ``(dotted name, value as JSON)``; text stands without quotes.

    >>> list(flatten({"optimizer": {"lr": 0.001}, "data": ["a.jsonl"]}))
    [('optimizer.lr', '0.001'), ('data', '["a.jsonl"]')]
    """
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{name}.")
        else:
            yield name, value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _view(stage: FinishedStage) -> StageView:
    manifest = stage.manifest
    return StageView(
        name=stage.name,
        verb=stage.verb,
        folder=str(stage.folder),
        wall_seconds=manifest.wall_seconds,
        counts=manifest.counts,
        settings=list(flatten(manifest.settings)),
        inputs=[
            (field, path, content)
            for field, paths in manifest.inputs.items()
            for path, content in paths.items()
        ],
        files=len(manifest.outputs),
        bytes=sum(manifest.outputs.values()),
        fingerprint=manifest.fingerprint,
        version=manifest.version,
    )
