"""The stage ``pack``: plans of which documents share a pack; copies no tokens.

A plan is derived from document lengths and settings alone, so another pack size costs seconds
and nothing is tokenized again. Every epoch has a plan of its own.
"""

import json
import os
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import numpy.typing as npt

from longrun.config.stages import PackConfig
from longrun.data.packs.packing import pack
from longrun.errors import InputError
from longrun.formats.documents import DocumentSet
from longrun.formats.plans import TRAIN, VALIDATION, PackPlan, PacksInfo, epoch_name
from longrun.formats.stages.atomic import write_text
from longrun.formats.stages.ledger import Ledger
from longrun.formats.stages.manifest import Manifest
from longrun.formats.stages.progress import show_progress
from longrun.formats.stages.stage import open_stage
from longrun.formats.text.spans import SpanKind

_MAKERS = ("prepare", "merge")
OVER_LONG = "longer than pack_size"
CUT = "response cut to pack_size"
STATS_NAME = "stats.json"
_FILL_EDGES = (*(round(0.05 * step, 2) for step in range(20)), 0.99, 0.999, 1.0)
"""Bins of the fill of packs; the last bin holds what is above 0.999, full packs included."""
_DRAW_SEED = 1
"""Keeps the draw of an epoch's documents apart from their packing."""
_VALIDATION_SEED = 1 << 32
"""Stands where an epoch's number stands, so that validation has random numbers of its own."""


def run(config: PackConfig) -> Manifest:
    """Write the plans of ``config``.

    Raises:
        InputError: the documents are not those of a finished ``prepare``, there are none, or too
            many are longer than a pack.
        StaleError: the output folder holds output of other settings or inputs.
    """
    made_of = _check_documents(config.documents)
    with open_stage("pack", config) as stage:
        if stage.finished is not None:
            return stage.finished
        ledger = Ledger()
        over_long: dict[str, OverLong] = {}
        whole = [DocumentSet.open(config.documents / split) for split in (TRAIN, VALIDATION)]
        fitting = [_fitting(documents, config, ledger, over_long) for documents in whole]
        _refuse_too_much(config, ledger, len(fitting[0]))
        cuts = config.over_long == "truncate-response"
        training, validation = (one.cut_to(config.pack_size) if cuts else one for one in whole)
        plans = _plan_epochs(config, training, fitting[0], stage.folder)
        seed = (config.seed, _VALIDATION_SEED)
        _plan(validation, fitting[1], config, seed).save(stage.folder, VALIDATION)
        relative = os.path.relpath(config.documents.resolve(), stage.folder.resolve())
        info = PacksInfo(
            documents=Path(relative).as_posix(),
            pack_size=config.pack_size,
            num_epochs=config.num_epochs,
            num_packs=[len(plan) for plan in plans],
            fill=[_fill(training, plan, config.pack_size) for plan in plans],
            cut_documents=cuts,
        )
        info.save(stage.folder)
        stats = _stats(training, plans[0], config.pack_size)
        stats["over_long"] = {path: asdict(over_long[path]) for path in sorted(over_long)}
        write_text(stage.folder / STATS_NAME, json.dumps(stats, indent=2))
        counts = {
            "documents": len(plans[0].documents),
            "packs": info.num_packs[0],
            "fill": info.fill[0],
        }
        beneath = {info.documents: made_of.fingerprint}
        return stage.finish(counts=counts, ledger=ledger, beneath=beneath)


def _check_documents(folder: Path) -> Manifest:
    manifest = Manifest.read(folder)
    if manifest.verb not in _MAKERS:
        raise InputError.at(
            folder, None, f"is output of {manifest.verb}; name an output folder of prepare or merge"
        )
    if manifest.verb == "prepare" and manifest.settings.get("part") is not None:
        part = manifest.settings["part"]
        raise InputError.at(folder, None, f"is part {part} of the documents; merge the parts first")
    return manifest


@dataclass(slots=True)
class OverLong:
    """Documents of one source file that are longer than a pack."""

    documents: int = 0
    tokens: int = 0
    """Of these documents, before anything was dropped or cut."""
    tokens_lost: int = 0
    answers_kept: int = 0
    """Documents whose answer is still whole after the cut."""


def _fitting(
    documents: DocumentSet, config: PackConfig, ledger: Ledger, over_long: dict[str, OverLong]
) -> npt.NDArray[np.int64]:
    """Return the documents to pack; the ledger counts all, ``over_long`` those that do not fit.

    Raises:
        InputError: one does not fit and the setting ``over_long`` says that it must.
    """
    too_long = documents.lengths > config.pack_size
    if too_long.any() and config.over_long == "error":
        _refuse_over_long(documents, int(np.argmax(too_long)), config.pack_size)
    dropped = too_long.copy()
    if config.over_long == "truncate-response":
        dropped &= documents.prompt_tokens() >= config.pack_size
    for index in np.flatnonzero(too_long).tolist():
        _count_over_long(documents, index, 0 if dropped[index] else config.pack_size, over_long)
    lengths = documents.lengths.astype(np.int64)
    kept = np.minimum(lengths, config.pack_size)[~dropped]
    ledger.take(len(documents))
    ledger.keep(len(kept), tokens=int(kept.sum()))
    if dropped.any():
        ledger.drop(OVER_LONG, int(dropped.sum()), tokens=int(lengths[dropped].sum()))
    cut = int(lengths[~dropped].sum() - kept.sum())
    if cut:
        ledger.drop(CUT, 0, tokens=cut)
    return np.flatnonzero(~dropped)


def _refuse_over_long(documents: DocumentSet, index: int, pack_size: int) -> None:
    origin = documents.origin(index)
    raise InputError.at(
        origin.path,
        origin.line,
        f"the document has {documents.lengths[index]} tokens, a pack {pack_size};"
        " set pack.pack_size higher, or pack.over_long to drop or truncate-response",
    )


def _count_over_long(
    documents: DocumentSet, index: int, kept_tokens: int, over_long: dict[str, OverLong]
) -> None:
    document = documents[index]
    mine = over_long.setdefault(documents.origin(index).path, OverLong())
    mine.documents += 1
    mine.tokens += len(document.tokens)
    mine.tokens_lost += len(document.tokens) - kept_tokens
    answers = np.flatnonzero(document.span_kinds == SpanKind.ANSWER)
    if len(answers):
        mine.answers_kept += int(document.span_lengths[: answers[-1] + 1].sum()) <= kept_tokens


def _refuse_too_much(config: PackConfig, ledger: Ledger, num_training: int) -> None:
    dropped = ledger.dropped.get(OVER_LONG, 0)
    share = dropped / max(ledger.records_in, 1)
    if share > config.max_dropped_share:
        raise InputError(
            f"pack: {dropped} of {ledger.records_in} documents ({share:.1%}) are longer than"
            f" pack_size {config.pack_size}; pack.max_dropped_share allows"
            f" {config.max_dropped_share:.1%}: set pack.pack_size higher or allow more"
        )
    if not num_training:
        raise InputError.at(config.documents, None, "holds no training document to pack")


def _plan_epochs(
    config: PackConfig, training: DocumentSet, fitting: npt.NDArray[np.int64], folder: Path
) -> list[PackPlan]:
    plans = []
    times = _times_in_epoch(training, config.weights)[fitting]
    with show_progress("pack", config.num_epochs, "epochs") as progress:
        for epoch in range(config.num_epochs):
            drawn = _draw(fitting, times, (config.seed, epoch, _DRAW_SEED))
            if not len(drawn):
                raise InputError(f"pack: no document is in epoch {epoch}; raise pack.weights")
            plans.append(_plan(training, drawn, config, (config.seed, epoch)))
            plans[-1].save(folder, epoch_name(epoch))
            progress.advance()
    return plans


def _times_in_epoch(documents: DocumentSet, weights: dict[str, float]) -> npt.NDArray[np.float64]:
    """Return [N] how often each document is in an epoch, on average.

    Raises:
        InputError: a pattern fits no source file.
    """
    by_file = np.ones(len(documents.source_paths))
    for at, path in enumerate(documents.source_paths):
        by_file[at] = next((one for name, one in weights.items() if fnmatch(path, name)), 1.0)
    for name in weights:
        if not any(fnmatch(path, name) for path in documents.source_paths):
            raise InputError(
                f"pack.weights: {name} fits no source file; there are"
                f" {', '.join(documents.source_paths[:3])}"
            )
    return by_file[documents.source_indices]


def _draw(
    documents: npt.NDArray[np.int64], times: npt.NDArray[np.float64], seed: tuple[int, ...]
) -> npt.NDArray[np.int64]:
    """Repeat ``documents`` [N] ``times`` [N]; what is over a whole number is a probability."""
    whole = np.floor(times)
    more = np.random.default_rng(seed).random(len(times)) < times - whole
    return np.repeat(documents, whole.astype(np.int64) + more)


def _plan(
    documents: DocumentSet,
    fitting: npt.NDArray[np.int64],
    config: PackConfig,
    seed: tuple[int, int],
) -> PackPlan:
    packing = pack(documents.lengths[fitting], config.pack_size, config.strategy, seed)
    return PackPlan(fitting[packing.documents], packing.starts.astype(np.int64))


def _tokens_per_pack(documents: DocumentSet, plan: PackPlan) -> npt.NDArray[np.int64]:
    """Return [P] tokens of each pack."""
    lengths = documents.lengths[plan.documents].astype(np.int64)
    return np.add.reduceat(lengths, plan.starts[:-1])


def _fill(documents: DocumentSet, plan: PackPlan, pack_size: int) -> float:
    return float(_tokens_per_pack(documents, plan).sum() / (len(plan) * pack_size))


def _stats(documents: DocumentSet, plan: PackPlan, pack_size: int) -> dict[str, object]:
    """Return ``stats.json``: the first epoch's packs."""
    fills = _tokens_per_pack(documents, plan) / pack_size
    edges = np.array(_FILL_EDGES)
    sizes = np.diff(plan.starts)
    return {
        "fill": float(fills.mean()),
        "full_packs": int((fills == 1.0).sum()),
        "fill_histogram": {
            "edges": edges.tolist(),
            "counts": np.histogram(fills, edges)[0].tolist(),
        },
        "documents_per_pack": {
            "mean": float(sizes.mean()),
            "max": int(sizes.max()),
            "counts": np.bincount(sizes).tolist(),
        },
    }
