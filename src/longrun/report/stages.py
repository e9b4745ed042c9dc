"""The finished stages that a page is about, in an order in which they could have run.

Which stage made what another one read is found from the manifests: an input path inside an output
folder, or, for folders that have moved since, an input whose content is that output. Nothing here
reads more than manifests.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from longrun.errors import InputError
from longrun.formats.stages.manifest import MANIFEST_NAME, Manifest


@dataclass(frozen=True, slots=True)
class FinishedStage:
    """One stage of the run; its name is that of its folder."""

    name: str
    folder: Path
    manifest: Manifest
    finished_at: float
    """Seconds since 1970 at which the manifest was written."""

    @property
    def verb(self) -> str:
        """The verb of the command line that made the folder."""
        return self.manifest.verb


@dataclass(frozen=True, slots=True)
class Graph:
    """Stages and who read whose output."""

    stages: tuple[FinishedStage, ...]
    edges: frozenset[tuple[int, int]]
    """``(maker, reader)`` as indices into ``stages``; makers come first."""

    def of_verb(self, verb: str) -> list[FinishedStage]:
        """Return the stages of ``verb`` in order."""
        return [stage for stage in self.stages if stage.verb == verb]

    def makers(self, reader: FinishedStage) -> list[FinishedStage]:
        """Return the stages whose output ``reader`` read."""
        place = self.stages.index(reader)
        return [self.stages[maker] for maker, into in sorted(self.edges) if into == place]


def read_stages(folders: Sequence[Path]) -> Graph:
    """Read the manifests of ``folders`` and order them by what reads what.

    The given order is kept as far as it has makers before readers.

    Raises:
        InputError: a folder has not finished, is named twice, or a manifest is damaged.
    """
    if not folders:
        raise InputError("report.stages: no folder matches; name output folders of stages")
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise InputError.at(folder, None, "is named twice in stages; name it once")
        seen.add(folder.resolve())
    stages = [_read(folder) for folder in folders]
    edges = _edges(stages)
    order = _order(len(stages), edges)
    if len(order) < len(stages):
        left = next(stage for index, stage in enumerate(stages) if index not in order)
        raise InputError.at(left.folder, None, "reads its own output by way of other stages")
    place = {index: position for position, index in enumerate(order)}
    return Graph(
        tuple(stages[index] for index in order),
        frozenset((place[maker], place[reader]) for maker, reader in edges),
    )


def _read(folder: Path) -> FinishedStage:
    manifest = Manifest.read(folder)
    finished_at = (folder / MANIFEST_NAME).stat().st_mtime
    return FinishedStage(folder.resolve().name, folder, manifest, finished_at)


def _edges(stages: Sequence[FinishedStage]) -> set[tuple[int, int]]:
    homes = {stage.folder.resolve(): index for index, stage in enumerate(stages)}
    contents = {stage.manifest.fingerprint: index for index, stage in enumerate(stages)}
    edges = set()
    for reader, stage in enumerate(stages):
        for paths in stage.manifest.inputs.values():
            for path, content in paths.items():
                maker = _maker(Path(path), content, homes, contents)
                if maker is not None and maker != reader:
                    edges.add((maker, reader))
    return edges


def _maker(
    path: Path, content: str, homes: dict[Path, int], contents: dict[str, int]
) -> int | None:
    whole = path.resolve()
    for folder in (whole, *whole.parents):
        if folder in homes:
            return homes[folder]
    return contents.get(content)


def _order(count: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    """Return the first topological order of ``range(count)``; shorter when there is a circle."""
    readers: dict[int, list[int]] = {index: [] for index in range(count)}
    waiting = dict.fromkeys(range(count), 0)
    for maker, reader in edges:
        readers[maker].append(reader)
        waiting[reader] += 1
    ready = [index for index in range(count) if not waiting[index]]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers[index]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, reader)
    return order
