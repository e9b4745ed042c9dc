r"""The stage ``merge``: what was prepared apart becomes one.

    prepare part=1/3   prepare part=2/3   prepare part=3/3     in any order, on any machine
             \________________|________________/
                             merge                             is prepare of the data

    prepare data=a     prepare data=b                          in this order
             \_______________|
                            merge                              is prepare data=[a,b]

The result is, byte for byte, that of ``prepare`` on one machine. Shards are linked where the file
system allows it and copied where it does not; no token is read.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib

from longrun.config.stages import MergeConfig
from longrun.data.documents.finish import (
    INDEX_NAME,
    PARTS,
    TOKENIZER,
    PartIndex,
    finish_documents,
    tally_path,
)
from longrun.data.documents.tally import Tally
from longrun.errors import InputError
from longrun.formats.documents import LINEAGE_SUFFIX
from longrun.formats.plans import TRAIN, VALIDATION
from longrun.formats.stages.arrays import write_array
from longrun.formats.stages.atomic import atomic_file
from longrun.formats.stages.manifest import Manifest
from longrun.formats.stages.progress import show_progress
from longrun.formats.stages.stage import changed_inputs, differences, open_stage
from longrun.formats.text.conversation import Conversation


def run(config: MergeConfig) -> Manifest:
    """Join the folders of ``config``.

    Raises:
        InputError: a folder was not prepared, parts are missing or given twice, or two of them were
            made with different settings or inputs; the difference is named.
        StaleError: the output folder holds output of other parts.
    """
    found = [(folder, Manifest.read(folder, "prepare")) for folder in config.parts]
    in_parts = [manifest.settings.get("part") is not None for _, manifest in found]
    if any(in_parts) and not all(in_parts):
        whole = found[in_parts.index(False)][0]
        raise InputError.at(
            whole, None, "is not a part but whole: it was prepared without part=; merge it alone"
        )
    folders = _in_order(found) if all(in_parts) else _one_after_the_other(found)
    with open_stage("merge", config) as stage:
        if stage.finished is not None:
            return stage.finished
        for name in (PARTS, TRAIN, VALIDATION):
            (stage.folder / name).mkdir(exist_ok=True)
        bring = _bring_parts if all(in_parts) else _bring_wholes
        index = bring(folders, stage.folder)
        index.save(stage.folder)
        missing = [name for name in index.files if not tally_path(stage.folder, name).exists()]
        if missing:
            raise InputError(f"merge: part {missing[0]} of the data is in none of the folders")
        conversation = Conversation.load(folders[0])
        _refuse_other_days(folders, conversation)
        return finish_documents(stage, index, conversation, folders[0] / TOKENIZER)


def _refuse_other_days(folders: list[Path], conversation: Conversation) -> None:
    for folder in folders:
        day = Conversation.load(folder).date
        if day != conversation.date:
            raise InputError.at(
                folder,
                None,
                f"was prepared with the date {day} in its prompts, and {folders[0]} with"
                f" {conversation.date}: the chat template reads the clock; prepare again with"
                " template_date set",
            )


def _bring_parts(folders: list[Path], into: Path) -> PartIndex:
    with show_progress("merge", len(folders), "parts") as progress:
        for folder in folders:
            for name in (TRAIN, VALIDATION, PARTS):  # figures last: they make a part complete
                for path in sorted((folder / name).iterdir()):
                    if path.name != INDEX_NAME:
                        _link(path, into / name / path.name)
            progress.advance()
    return PartIndex.load(folders[0])


def _bring_wholes(folders: list[Path], into: Path) -> PartIndex:
    """Bring shards under new numbers: those that one prepare of all the data would give them."""
    paths: list[str] = []
    files: dict[str, int] = {}
    modes = PartIndex.load(folders[0]).modes
    with show_progress("merge", len(folders), "folders") as progress:
        for folder in folders:
            index = PartIndex.load(folder)
            for name, file in index.files.items():
                number = f"{len(files):05d}"
                _bring_shard(folder, name, into, number, len(paths))
                files[number] = len(paths) + file
            paths += index.paths
            progress.advance()
    return PartIndex(paths, files, modes)


def _bring_shard(source: Path, name: str, into: Path, number: str, first_file: int) -> None:
    """Bring shard ``name`` as ``number``; its source files count from ``first_file``."""
    tally = Tally.load(tally_path(source, name))
    checksums: dict[str, int] = {}
    for key, checksum in tally.checksums.items():
        split, _, file = key.partition("/")
        target = f"{split}/{number}{file.removeprefix(name)}"
        checksums[target] = checksum
        if not file.endswith(LINEAGE_SUFFIX):
            _link(source / key, into / target)
            continue
        lineage = np.load(source / key, allow_pickle=False)
        lineage["source_file"] += first_file
        with atomic_file(into / target) as opened:
            write_array(opened, lineage)
        checksums[target] = isal_zlib.crc32((into / target).read_bytes())
    tally.checksums = checksums
    tally.save(tally_path(into, number))


def _in_order(parts: list[tuple[Path, Manifest]]) -> list[Path]:
    """Return the folders as 1/M, 2/M, ...; raises ``InputError`` where they do not fit."""
    first_folder, first = parts[0]
    by_number: dict[int, Path] = {}
    num_parts = 0
    for folder, manifest in parts:
        _refuse_difference(folder, manifest, first_folder, first)
        number, num_parts = map(int, manifest.settings["part"].split("/"))
        if number in by_number:
            raise InputError(
                f"merge: {folder} and {by_number[number]} are both part {number}/{num_parts}"
            )
        by_number[number] = folder
    absent = [
        f"{number}/{num_parts}" for number in range(1, num_parts + 1) if number not in by_number
    ]
    if absent:
        raise InputError(f"merge: part {', '.join(absent)} is missing; prepare it with part=")
    return [by_number[number] for number in sorted(by_number)]


def _one_after_the_other(wholes: list[tuple[Path, Manifest]]) -> list[Path]:
    """Return the folders as they are; raises ``InputError`` where they do not fit."""
    first_folder, first = wholes[0]
    for at, (folder, manifest) in enumerate(wholes):
        if folder.resolve() in {other.resolve() for other, _ in wholes[:at]}:
            raise InputError(f"merge: {folder} is named twice")
        if any(one.get("duplicates") for one in manifest.settings.get("filters", [])):
            raise InputError.at(
                folder,
                None,
                "its filter duplicates has seen this data alone; prepare all data in one go, on"
                " several machines by part=",
            )
        _refuse_difference(folder, _without_data(manifest), first_folder, _without_data(first))
    return [folder for folder, _ in wholes]


def _without_data(manifest: Manifest) -> Manifest:
    """Leave out of a manifest what may differ between folders of different data."""
    settings = {key: value for key, value in manifest.settings.items() if key != "data"}
    inputs = {
        key: value for key, value in manifest.inputs.items() if key.partition(".")[0] != "data"
    }
    return replace(manifest, settings=settings, inputs=inputs)


def _refuse_difference(folder: Path, one: Manifest, other_folder: Path, other: Manifest) -> None:
    found = differences(_comparable(other.settings), _comparable(one.settings), "prepare")
    found += changed_inputs(other.inputs, one.inputs)
    if one.revision != other.revision:
        found.append(f"output revision {other.revision} -> {one.revision}")
    if found:
        raise InputError(
            f"merge: {folder} was made differently than {other_folder}: {'; '.join(found)};"
            " prepare it again with the same settings and inputs"
        )


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that all parts share: how many parts there are, not which one it is."""
    return {**settings, "part": str(settings.get("part")).rpartition("/")[2]}


def _link(path: Path, target: Path) -> None:
    if target.exists():
        return
    try:
        os.link(path, target)
    except OSError:  # another file system, or one without links
        with atomic_file(target) as file, path.open("rb") as source:
            shutil.copyfileobj(source, file)
