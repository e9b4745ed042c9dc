"""The stage ``convert_packs``: packs to and from the three padded arrays of NeMo's packed datasets.

Out, a pack folder becomes three ``.npy`` files. In, three files become documents and a plan with
the very same packs, in the folder that training reads; padding is left out, because here it is
added when a pack is read. In and out again gives the same bytes.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np

from longrun.config.convert import ConvertPacksConfig
from longrun.data.documents.encode import EncodedBatch
from longrun.data.documents.finish import TOKENIZER
from longrun.data.documents.shards import ShardWriter
from longrun.errors import InputError
from longrun.formats.documents import SOURCES_NAME, DocumentSet, Sources
from longrun.formats.packed_arrays import (
    ArrayShape,
    Row,
    array_paths,
    padded_length,
    read_packs,
    write_arrays,
)
from longrun.formats.plans import TRAIN, VALIDATION, PackPlan, PackSet, PacksInfo, epoch_name
from longrun.formats.stages.atomic import atomic_folder, write_text
from longrun.formats.stages.manifest import Manifest
from longrun.formats.stages.progress import show_progress
from longrun.formats.stages.stage import Stage, open_stage
from longrun.formats.text.conversation import CONVERSATION_NAME
from longrun.formats.text.spans import SpanKind

DOCUMENTS = "documents"
_SHARD_TOKENS = 1 << 26


def run(config: ConvertPacksConfig) -> Manifest:
    """Convert what ``config`` names.

    Raises:
        InputError: the packs or arrays are absent, damaged, or not padded as the settings say.
        StaleError: the output folder holds output of other settings or inputs.
    """
    with open_stage("convert_packs", config) as stage:
        if stage.finished is not None:
            return stage.finished
        if config.packs is not None:
            return _export(stage, PackSet.open(config.packs), config)
        return _import(stage, config)


def _export(stage: Stage, packs: PackSet, config: ConvertPacksConfig) -> Manifest:
    plan = packs.plan(config.epoch)
    lengths = packs.training.lengths.tolist()
    padded = np.array([padded_length(one, config.context_parallel) for one in lengths], np.int64)
    tokens = np.add.reduceat(padded[plan.documents], plan.starts[:-1])
    shape = ArrayShape(len(plan), int(tokens.max()), int(np.diff(plan.starts).max()))
    prefix = stage.folder / f"packed_{packs.pack_size}_seed{config.epoch}"
    with show_progress("convert_packs", len(plan), "packs") as progress:

        def rows() -> Iterator[list[Row]]:
            for members in range(len(plan)):
                yield [_row_of(packs.training, one) for one in plan[members].tolist()]
                progress.advance()

        write_arrays(prefix, shape, rows(), config.pad_id, config.context_parallel)
    return stage.finish(counts={"packs": len(plan), "documents": len(plan.documents)})


def _row_of(documents: DocumentSet, index: int) -> Row:
    document = documents[index]
    has_prompt = document.span_kinds[0] == SpanKind.PROMPT
    return Row(document.tokens, int(document.span_lengths[0]) if has_prompt else 0)


def _import(stage: Stage, config: ConvertPacksConfig) -> Manifest:
    assert config.arrays is not None
    assert config.like is not None
    folder = stage.folder / DOCUMENTS
    shutil.rmtree(folder, ignore_errors=True)
    packs = read_packs(config.arrays, config.pad_id, config.context_parallel)
    sizes: list[int] = []
    with atomic_folder(folder) as aside:
        most_tokens, num_documents = _write_documents(aside, packs, config, sizes)
        for name in (CONVERSATION_NAME, TOKENIZER):
            _copy(config.like / name, aside / name)
    starts = np.append(0, np.cumsum(sizes))
    plan = PackPlan(np.arange(num_documents), starts)
    plan.save(stage.folder, epoch_name(0))
    PackPlan(np.zeros(0, np.int64), np.zeros(1, np.int64)).save(stage.folder, VALIDATION)
    tokens = int(DocumentSet.open(folder / TRAIN).lengths.sum(dtype=np.int64))
    fill = tokens / (len(plan) * most_tokens)
    PacksInfo(
        documents=DOCUMENTS,
        pack_size=most_tokens,
        num_epochs=1,
        num_packs=[len(plan)],
        fill=[fill],
    ).save(stage.folder)
    return stage.finish(counts={"packs": len(plan), "documents": num_documents, "fill": fill})


def _write_documents(
    folder: Path, packs: Iterator[list[Row]], config: ConvertPacksConfig, sizes: list[int]
) -> tuple[int, int]:
    """Write shards and what readers of them need; return tokens of the fullest pack, documents."""
    assert config.arrays is not None
    for split in (TRAIN, VALIDATION):
        (folder / split).mkdir()
    names: list[str] = []
    most_tokens, line, in_shard = 0, 0, _SHARD_TOKENS
    with ExitStack() as stack:
        for rows in packs:
            if in_shard >= _SHARD_TOKENS:
                stack.close()
                names.append(f"{len(names):05d}")
                writer = ShardWriter(folder / TRAIN, names[-1])
                stack.enter_context(writer)
                in_shard = 0
            batch = _batch_of(rows)
            lineage = [(0, line + at, 0, 0) for at in range(len(rows))]
            writer.write(batch, np.ones(len(rows), np.bool_), lineage)
            line += len(rows)
            in_shard += len(batch.tokens)
            most_tokens = max(most_tokens, len(batch.tokens))
            sizes.append(len(rows))
    if not sizes:
        raise InputError.at(config.arrays, None, "holds no pack")
    path = str(array_paths(config.arrays)[0])
    sources = Sources([path], [config.mode], dict.fromkeys(names, 0))
    write_text(folder / SOURCES_NAME, json.dumps(asdict(sources), indent=2))
    return most_tokens, line


def _batch_of(rows: Sequence[Row]) -> EncodedBatch:
    lengths = np.array([len(row.tokens) for row in rows], np.int64)
    prompts = np.array([row.prompt_tokens for row in rows], np.int64)
    spans = np.stack([prompts, lengths - prompts], axis=1)
    kinds = np.tile(np.array([SpanKind.PROMPT, SpanKind.ANSWER], np.int8), (len(rows), 1))
    present = spans > 0
    return EncodedBatch(
        tokens=np.concatenate([row.tokens for row in rows]),
        span_lengths=spans[present].astype(np.int32),
        span_kinds=kinds[present],
        first_spans=np.append(0, np.cumsum(present.sum(axis=1))),
        first_tokens=np.append(0, np.cumsum(lengths)),
        prompt_tokens=prompts,
    )


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.is_file():
        shutil.copyfile(source, target)
    else:
        raise InputError.at(source, None, "there is no such file; `like` is a prepared folder")
