r"""The stage ``merge``: the parts of one ``prepare``, made on different machines, become one.

    prepare part=1/3   prepare part=2/3   prepare part=3/3     in any order, on any machine
             \________________|________________/
                             merge

The result is, byte for byte, that of ``prepare`` on one machine. Shards are linked where the file
system allows it and copied where it does not; no token is read.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longrun.config.stages import MergeConfig
from longrun.data.finish import (
    INDEX_NAME,
    PARTS,
    TOKENIZER,
    PartIndex,
    finish_documents,
    tally_path,
)
from longrun.errors import InputError
from longrun.formats.conversation import Conversation
from longrun.formats.manifest import Manifest
from longrun.formats.plans import TRAIN, VALIDATION
from longrun.formats.progress import show_progress
from longrun.formats.stage import changed_inputs, differences, open_stage


def run(config: MergeConfig) -> Manifest:
    """Join the parts of ``config``.

    Raises:
        InputError: a folder is not a part, parts are missing or given twice, or two of them were
            made with different settings or inputs; the difference is named.
        StaleError: the output folder holds output of other parts.
    """
    folders = _in_order([(folder, Manifest.read(folder, "prepare")) for folder in config.parts])
    with open_stage("merge", config) as stage:
        if stage.finished is not None:
            return stage.finished
        for name in (PARTS, TRAIN, VALIDATION):
            (stage.folder / name).mkdir(exist_ok=True)
        with show_progress("merge", len(folders), "parts") as progress:
            for folder in folders:
                _bring(folder, stage.folder)
                progress.advance()
        index = PartIndex.load(folders[0])
        index.save(stage.folder)
        missing = [name for name in index.files if not tally_path(stage.folder, name).exists()]
        if missing:
            raise InputError(f"merge: part {missing[0]} of the data is in none of the folders")
        conversation = Conversation.load(folders[0])
        return finish_documents(stage, index, conversation, folders[0] / TOKENIZER)


def _in_order(parts: list[tuple[Path, Manifest]]) -> list[Path]:
    """Return the folders as 1/M, 2/M, ...; raises ``InputError`` where they do not fit."""
    first_folder, first = parts[0]
    by_number: dict[int, Path] = {}
    num_parts = 0
    for folder, manifest in parts:
        part = manifest.settings.get("part")
        if part is None:
            raise InputError.at(
                folder, None, "is not a part but whole: it was prepared without part="
            )
        _refuse_difference(folder, manifest, first_folder, first)
        number, num_parts = map(int, part.split("/"))
        if number in by_number:
            raise InputError(f"merge: {folder} and {by_number[number]} are both part {part}")
        by_number[number] = folder
    absent = [
        f"{number}/{num_parts}" for number in range(1, num_parts + 1) if number not in by_number
    ]
    if absent:
        raise InputError(f"merge: part {', '.join(absent)} is missing; prepare it with part=")
    return [by_number[number] for number in sorted(by_number)]


def _refuse_difference(folder: Path, one: Manifest, other_folder: Path, other: Manifest) -> None:
    found = differences(_comparable(other.settings), _comparable(one.settings), "prepare")
    found += changed_inputs(other.inputs, one.inputs)
    if one.version != other.version:
        found.append(f"longrun {other.version} -> {one.version}")
    if found:
        raise InputError(
            f"merge: {folder} was made differently than {other_folder}: {'; '.join(found)};"
            " prepare it again with the same settings and inputs"
        )


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that all parts share: how many parts there are, not which one it is."""
    return {**settings, "part": str(settings.get("part")).rpartition("/")[2]}


def _bring(source: Path, folder: Path) -> None:
    for name in (TRAIN, VALIDATION, PARTS):  # figures last: they make a part complete
        for path in sorted((source / name).iterdir()):
            target = folder / name / path.name
            if path.name == INDEX_NAME or target.exists():
                continue
            aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
            try:
                os.link(path, aside)
            except OSError:  # another file system, or one without links
                shutil.copyfile(path, aside)
            os.replace(aside, target)
