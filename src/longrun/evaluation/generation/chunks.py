"""Predictions of one benchmark made by several jobs, each a chunk, joined as if by one.

Chunk ``i/n`` holds the problems at places i, i + n, i + 2n, ... of the benchmark. Joined, they
stand in the order of the benchmark again: the rows are those of a single job.
"""

import itertools
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from longrun.errors import InputError
from longrun.formats.json_text import read_json
from longrun.formats.predictions import MODELS_NAME, Prediction, read_rows
from longrun.formats.stages.manifest import Manifest

Key = tuple[str, str]
"""Model label and benchmark."""


@dataclass(frozen=True, slots=True)
class _Source:
    path: Path
    manifest: Manifest
    place: int
    """Which chunk; counts from 1."""
    total: int


def split_chunk(chunk: str | None) -> tuple[int, int]:
    """Return place and number of chunks.

    >>> split_chunk("2/8"), split_chunk(None)
    ((2, 8), (1, 1))
    """
    place, total = (chunk or "1/1").split("/")
    return int(place), int(total)


def find_predictions(folders: Sequence[Path]) -> dict[Key, list[Path]]:
    """Return the predictions files of finished ``generate`` outputs, chunks in their order.

    Raises:
        InputError: a folder is not such an output, holds no predictions, repeats another, or
            chunks are missing or were made with different settings.
    """
    found: dict[Key, list[_Source]] = {}
    for folder in folders:
        manifest = Manifest.read(folder, "generate")
        labels = read_json(folder / MODELS_NAME, list[str], "run generate again")
        names = [benchmark["name"] for benchmark in manifest.settings["benchmarks"]]
        place, total = split_chunk(manifest.settings.get("chunk"))
        for key in itertools.product(labels, names):
            source = _Source(folder / key[0] / f"{key[1]}.jsonl", manifest, place, total)
            for other in found.setdefault(key, []):
                _check_together(source, other)
            found[key].append(source)
    return {key: _in_order(key, sources) for key, sources in found.items()}


def read_joined(paths: Sequence[Path]) -> list[Prediction]:
    """Read the chunks of one benchmark, in the order of its problems.

    Raises:
        InputError: a file is missing, or a line of it is damaged.
    """
    chunks = []
    for path in paths:
        with closing(read_rows(path, Prediction)) as lines:
            rows = [row for _, row in lines]
        chunks.append([list(group) for _, group in itertools.groupby(rows, lambda row: row.id)])
    return [
        row
        for problems in itertools.zip_longest(*chunks, fillvalue=())
        for problem in problems
        for row in problem
    ]


def _check_together(one: _Source, other: _Source) -> None:
    if one.total == 1 or one.total != other.total or one.place == other.place:
        problem = f"also in {other.path}; give the models different labels"
        raise InputError.at(one.path, None, problem)
    settings = [{**source.manifest.settings, "chunk": None} for source in (one, other)]
    contents = [
        {name: list(paths.values()) for name, paths in source.manifest.inputs.items()}
        for source in (one, other)
    ]
    if settings[0] != settings[1] or contents[0] != contents[1]:
        raise InputError.at(
            one.path,
            None,
            f"is a chunk of another generation than {other.path}; generate both with the same"
            " models, benchmarks and settings",
        )


def _in_order(key: Key, sources: Sequence[_Source]) -> list[Path]:
    by_place = {source.place: source.path for source in sources}
    total = sources[0].total
    missing = [f"{place}/{total}" for place in range(1, total + 1) if place not in by_place]
    if missing:
        raise InputError.at(
            sources[0].path,
            None,
            f"chunks {', '.join(missing)} of {key[0]} on {key[1]} are missing; name the output"
            " folders of all of them",
        )
    return [by_place[place] for place in sorted(by_place)]
