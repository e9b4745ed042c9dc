"""The stage ``pack``: plans of which documents share a pack; copies no tokens.

A plan is derived from document lengths and settings alone, so another pack size costs seconds
and nothing is tokenized again. Every epoch has a plan of its own.
"""

import json
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from longrun.config.stages import PackConfig
from longrun.data.packing import pack
from longrun.errors import InputError
from longrun.formats.atomic import write_text
from longrun.formats.documents import DocumentSet
from longrun.formats.ledger import Ledger
from longrun.formats.manifest import Manifest
from longrun.formats.plans import TRAIN, VALIDATION, PackPlan, PacksInfo, epoch_name
from longrun.formats.progress import show_progress
from longrun.formats.stage import open_stage

_MAKERS = ("prepare", "merge")
OVER_LONG = "longer than pack_size"
STATS_NAME = "stats.json"
_FILL_EDGES = (*(round(0.05 * step, 2) for step in range(20)), 0.99, 0.999, 1.0)
"""Bins of the fill of packs; the last bin holds what is above 0.999, full packs included."""
_VALIDATION_SEED = 1 << 32
"""Stands where an epoch's number stands, so that validation has random numbers of its own."""


def run(config: PackConfig) -> Manifest:
    """Write the plans of ``config``.

    Raises:
        InputError: the documents are not those of a finished ``prepare``, there are none, or too
            many are longer than a pack.
        StaleError: the output folder holds output of other settings or inputs.
    """
    _check_documents(config.documents)
    with open_stage("pack", config) as stage:
        if stage.finished is not None:
            return stage.finished
        ledger = Ledger()
        training = DocumentSet.open(config.documents / TRAIN)
        validation = DocumentSet.open(config.documents / VALIDATION)
        fitting = [_fitting(documents, config, ledger) for documents in (training, validation)]
        _refuse_too_much(config, ledger, len(fitting[0]))
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
        )
        info.save(stage.folder)
        stats = _stats(training, plans[0], config.pack_size)
        write_text(stage.folder / STATS_NAME, json.dumps(stats, indent=2))
        counts = {"documents": len(fitting[0]), "packs": info.num_packs[0], "fill": info.fill[0]}
        return stage.finish(counts=counts, ledger=ledger)


def _check_documents(folder: Path) -> None:
    manifest = Manifest.read(folder)
    if manifest.verb not in _MAKERS:
        raise InputError.at(
            folder, None, f"is output of {manifest.verb}; name an output folder of prepare or merge"
        )
    if manifest.verb == "prepare" and manifest.settings.get("part") is not None:
        part = manifest.settings["part"]
        raise InputError.at(folder, None, f"is part {part} of the documents; merge the parts first")


def _fitting(documents: DocumentSet, config: PackConfig, ledger: Ledger) -> npt.NDArray[np.int64]:
    """Return the documents that fit into a pack; the ledger counts all of them.

    Raises:
        InputError: one does not fit and the setting ``over_long`` says that it must.
    """
    too_long = documents.lengths > config.pack_size
    if too_long.any() and config.over_long == "error":
        first = int(np.argmax(too_long))
        origin = documents.origin(first)
        raise InputError.at(
            origin.path,
            origin.line,
            f"the document has {documents.lengths[first]} tokens, a pack {config.pack_size};"
            " set pack.pack_size higher, or pack.over_long to drop",
        )
    tokens = int(documents.lengths.sum(dtype=np.int64))
    tokens_dropped = int(documents.lengths[too_long].sum(dtype=np.int64))
    num_dropped = int(too_long.sum())
    ledger.take(len(documents))
    ledger.keep(len(documents) - num_dropped, tokens=tokens - tokens_dropped)
    if num_dropped:
        ledger.drop(OVER_LONG, num_dropped, tokens=tokens_dropped)
    return np.flatnonzero(~too_long)


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
    with show_progress("pack", config.num_epochs, "epochs") as progress:
        for epoch in range(config.num_epochs):
            plans.append(_plan(training, fitting, config, (config.seed, epoch)))
            plans[-1].save(folder, epoch_name(epoch))
            progress.advance()
    return plans


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
