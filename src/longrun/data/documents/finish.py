"""The end of a prepared folder: what belongs to all of its parts is added up and written.

Used by ``prepare``, which made the parts, and by ``merge``, which only brought them together, so
that both end with the same bytes.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec

from longrun.data.documents.tally import LENGTH_EDGES, Tally
from longrun.data.records.sources import Part
from longrun.errors import InputError
from longrun.formats.documents import SOURCES_NAME, Sources, read_description
from longrun.formats.plans import TRAIN, VALIDATION
from longrun.formats.stages.atomic import atomic_folder, write_text
from longrun.formats.stages.manifest import Manifest
from longrun.formats.stages.stage import Stage
from longrun.formats.text.conversation import Conversation
from longrun.formats.text.tokenizer_folder import save_tokenizer

PARTS = "parts"
INDEX_NAME = "parts.json"
TOKENIZER = "tokenizer"
STATS_NAME = "stats.json"


@dataclass(frozen=True, slots=True)
class PartIndex:
    """``parts.json``: which part came from which file, over all machines."""

    paths: list[str]
    """Every source file, in order."""
    files: dict[str, int]
    """Name of a part -> position of its file in ``paths``; in the order of the data."""
    modes: list[str]
    """What the numbers of modes in lineage files mean."""

    @classmethod
    def of(cls, parts: Sequence[Part], modes: Iterable[str]) -> "PartIndex":
        """Describe all parts of the data."""
        paths = {part.file.number: str(part.file.path) for part in parts}
        files = {part.name: part.file.number for part in parts}
        return cls(list(paths.values()), files, list(modes))

    def save(self, folder: Path) -> None:
        """Write ``parts.json`` into ``folder``."""
        write_text(folder / INDEX_NAME, json.dumps(asdict(self), indent=2))

    @classmethod
    def load(cls, folder: Path) -> "PartIndex":
        """Read ``parts.json``.

        Raises:
            InputError: it is absent or damaged.
        """
        return read_description(folder / INDEX_NAME, cls)


def tally_path(folder: Path, name: str) -> Path:
    """Return the file with the figures of part ``name``; its presence makes the part complete."""
    return folder / PARTS / f"{name}.json"


def finish_documents(
    stage: Stage, index: PartIndex, conversation: Conversation, tokenizer: Path
) -> Manifest:
    """Write sources, figures, conversation, tokenizer and at last the manifest.

    Raises:
        InputError: no document is left for training.
    """
    folder = stage.folder
    total = Tally()
    first_lines: dict[str, int] = {}
    lines: dict[int, int] = {}
    examples: dict[str, str] = {}
    for name, file in index.files.items():
        first_lines[name] = lines.get(file, 0)
        tally = Tally.load(tally_path(folder, name))
        lines[file] = first_lines[name] + tally.lines
        total.add(tally)
        for reason, line in tally.first_dropped.items():
            examples.setdefault(reason, f"{index.paths[file]}:{first_lines[name] + line + 1}")
    _refuse_nothing(stage, total)
    learned = replace(conversation, code=total.learn_wording(conversation.code))
    learned.save(folder)
    copy_tokenizer(tokenizer, folder, learned)
    sources = Sources(index.paths, index.modes, first_lines)
    write_text(folder / SOURCES_NAME, json.dumps(asdict(sources), indent=2))
    return finish_figures(stage, total, examples)


def finish_figures(stage: Stage, total: Tally, examples: Mapping[str, str]) -> Manifest:
    """Write the figures that ``total`` holds, and the manifest with its checksums.

    ``examples``: reason of the ledger -> ``file:line`` of the first record dropped for it.
    """
    stats = _stats(total) | {"examples": dict(examples)}
    write_text(stage.folder / STATS_NAME, json.dumps(stats, indent=2))
    counts = {
        "documents": total.documents.get(TRAIN, 0),
        "tokens": total.tokens.get(TRAIN, 0),
        "validation_documents": total.documents.get(VALIDATION, 0),
        "validation_tokens": total.tokens.get(VALIDATION, 0),
    }
    return stage.finish(counts=counts, ledger=total.ledger, checksums=total.checksums)


def copy_tokenizer(
    tokenizer: Path, folder: Path, conversation: Conversation, content: str | None = None
) -> None:
    """Put a copy of the tokenizer that carries ``conversation`` into ``folder``, once.

    ``content``: as for ``save_tokenizer``.
    """
    if not (folder / TOKENIZER).exists():
        with atomic_folder(folder / TOKENIZER) as aside:
            save_tokenizer(tokenizer, aside, conversation, content)


def _stats(total: Tally) -> dict[str, object]:
    """Return ``stats.json``: what a page about the data shows."""
    stats: dict[str, object] = msgspec.to_builtins(total)
    del stats["checksums"], stats["first_dropped"]
    stats["lengths"] = {
        mode: {"edges": LENGTH_EDGES, "counts": counts}
        for mode, counts in sorted(total.lengths.items())
    }
    return stats


def _refuse_nothing(stage: Stage, total: Tally) -> None:
    if total.documents.get(TRAIN, 0):
        return
    dropped = ", ".join(f"{count} {reason}" for reason, count in total.ledger.dropped.items())
    held_out = total.documents.get(VALIDATION, 0)
    raise InputError(
        f"{stage.identity.verb}: no record of {total.ledger.records_in} is left for training"
        f" ({dropped or 'none dropped'}; {held_out} held out); loosen filters or validation_share"
    )
