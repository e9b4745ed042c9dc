"""Packing alone: seconds, fill and mixture of each strategy and of what peers do."""

import time

import numpy as np

from data_peers import first_fit
from longrun.data.packs.packing import Packing, pack
from longrun.data.packs.packing_loops import fit_best, run_loop

PACK_SIZE = 32_768
_BATCH_PACKS = 256
_FIRST_FIT_LIMIT = 1_000_000
"""The peers' tree is Python; more would take minutes."""


def realistic_lengths(count: int) -> np.ndarray:
    """Return [count] lengths: means of 8k, 5k and 12k tokens by mode, log-normal, capped."""
    rng = np.random.default_rng(0)
    means = rng.choice([8000, 5000, 12000], count, p=[0.584, 0.313, 0.103])
    spread = np.where(means == 12000, 0.6, 0.75)
    lengths = rng.lognormal(np.log(means) - spread**2 / 2, spread)
    return np.clip(lengths, 16, PACK_SIZE).astype(np.int32)


def compare_packers(count: int) -> list[dict[str, object]]:
    """Return one row per packer on ``count`` lengths."""
    lengths = realistic_lengths(count)
    rows = []
    for strategy in ("random-exact", "best-fit", "sequential"):
        began = time.process_time()
        packing = pack(lengths, PACK_SIZE, strategy, (0, 0))
        rows.append(_row(f"longrun {strategy}", lengths, packing, time.process_time() - began))
    if count <= _FIRST_FIT_LIMIT:
        order = np.random.default_rng(1).permutation(count)
        began = time.process_time()
        packs = np.empty(count, np.int64)
        packs[order] = first_fit(lengths[order], PACK_SIZE)
        seconds = time.process_time() - began
        rows.append(_row("shuffled first fit, as made", lengths, _by_pack(packs), seconds))
    order = np.argsort(-lengths, kind="stable")
    began = time.process_time()
    packs = run_loop(fit_best, lengths, order, PACK_SIZE)
    seconds = time.process_time() - began
    rows.append(_row("best-fit decreasing, as made", lengths, _by_pack(packs), seconds))
    return rows


def _by_pack(packs: np.ndarray) -> Packing:
    starts = np.append(0, np.cumsum(np.bincount(packs)))
    return Packing(np.argsort(packs, kind="stable"), starts)


def _row(name: str, lengths: np.ndarray, packing: Packing, seconds: float) -> dict[str, object]:
    ordered = lengths[packing.documents].astype(np.float64)
    sizes = np.diff(packing.starts)
    means = np.add.reduceat(ordered, packing.starts[:-1]) / sizes
    num_packs = len(sizes)
    batches = num_packs // _BATCH_PACKS
    per_batch = sizes[: batches * _BATCH_PACKS].reshape(batches, -1).sum(axis=1)
    bound = -(-int(lengths.sum(dtype=np.int64)) // PACK_SIZE)
    return {
        "packer": name,
        "documents": len(lengths),
        "cpu_seconds": round(seconds, 3),
        "fill": float(lengths.sum(dtype=np.int64) / (num_packs * PACK_SIZE)),
        "packs_over_bound": num_packs - bound,
        "documents_per_batch_variation": float(per_batch.std() / per_batch.mean())
        if batches > 1
        else None,
        "correlation_with_position": float(np.corrcoef(np.arange(num_packs), means)[0, 1]),
        "intraclass_correlation": _intraclass(ordered, sizes),
        "correlation_with_place_in_pack": _with_place(ordered, sizes),
    }


def _intraclass(ordered: np.ndarray, sizes: np.ndarray) -> float:
    """Return the intraclass correlation of length (one-way analysis of variance by pack).

    Packs of exactly full length cannot have 0: documents that share a sum depend on each other.
    """
    starts = np.cumsum(sizes) - sizes
    means = np.add.reduceat(ordered, starts) / sizes
    count, packs = len(ordered), len(sizes)
    between = (sizes * (means - ordered.mean()) ** 2).sum() / (packs - 1)
    within = ((ordered - np.repeat(means, sizes)) ** 2).sum() / (count - packs)
    size = (count - (sizes.astype(np.float64) ** 2).sum() / count) / (packs - 1)
    return float((between - within) / (between + (size - 1) * within))


def _with_place(ordered: np.ndarray, sizes: np.ndarray) -> float:
    """Return the correlation of length with the place in the pack, from 0 (first) to 1 (last)."""
    starts = np.cumsum(sizes) - sizes
    places = np.arange(len(ordered)) - np.repeat(starts, sizes)
    last = np.repeat(sizes, sizes) - 1
    several = last > 0
    return float(np.corrcoef(places[several] / last[several], ordered[several])[0, 1])
