"""Simulation: how much of a step is lost because its documents are dealt unevenly to the ranks.

    python bench/balance.py --out balance.json

No device is used. Documents are log-normal, clipped at the pack, packed by Longrun's own packer,
dealt by Longrun's own dealing; time is modelled: a document of n tokens takes
``n + attention_cost * n ** 2``. A cell is the share of the step that an average rank waits,
``1 - mean / max``, averaged over batches.

    naive       packs in their random order, equally many to each rank
    packs       whole packs dealt by modelled time
    documents   single documents dealt by modelled time
    auto        Longrun's default
    window      batches of packs of like cost (``balance_window``), then auto

``groups of 8``: sharding ``full`` over 8 neighbours that wait for each other in every micro-step.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from longrun.data.packs.packing import pack
from longrun.formats.stages.atomic import write_text
from longrun.nn.costs import ATTENTION_RATE, ModelShape, attention_cost, effective_length
from longrun.plan.models import find_model
from longrun.training.balance import Ranks, deal_batch, pack_cost

MODELS = ("1.5b", "7b", "14b", "32b")
DATA_RANKS = (16, 32, 64, 128, 256)
PACK_SIZE = 32768
BATCH_SIZE = 256
WINDOW = 16
GROUP = 8


def draw_packs(num_packs: int, mean: float, sigma: float, seed: int) -> list[np.ndarray]:
    """Return the document lengths of each pack."""
    rng = np.random.default_rng(seed)
    drawn = rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, int(num_packs * PACK_SIZE / mean))
    lengths = np.clip(drawn, 200, PACK_SIZE).astype(np.int32)
    packing = pack(lengths, PACK_SIZE, "random-exact", (seed, 0))
    return np.split(lengths[packing.documents], packing.starts[1:-1])


def batches_of(packs: list[np.ndarray]) -> list[list[np.ndarray]]:
    return [
        packs[start : start + BATCH_SIZE]
        for start in range(0, len(packs) - BATCH_SIZE + 1, BATCH_SIZE)
    ]


def windowed(packs: list[np.ndarray], share: float) -> list[list[np.ndarray]]:
    """Return batches of packs of like cost, cut from windows."""
    size = WINDOW * BATCH_SIZE
    batches = []
    for start in range(0, len(packs) - size + 1, size):
        window = packs[start : start + size]
        batches += batches_of(sorted(window, key=lambda documents: pack_cost(documents, share)))
    return batches


def lost_naively(batch: list[np.ndarray], share: float, num_ranks: int) -> float:
    loads = np.array([pack_cost(documents, share) for documents in batch])
    loads = loads.reshape(num_ranks, -1).sum(1)
    return float(1 - loads.mean() / loads.max())


def lost(batch: list[np.ndarray], share: float, ranks: Ranks, balance: str) -> tuple[float, int]:
    """Return the share of the step that an average rank waits, and the most micro-steps."""
    dealt = deal_batch(batch, share, ranks, balance, PACK_SIZE)
    return 1 - 1 / dealt.imbalance(ranks.waiting), dealt.most_micro_steps


def simulate(
    packs: list[np.ndarray], model: str, num_batches: int, attention_rate: float
) -> list[dict[str, object]]:
    share = attention_cost(ModelShape.of(find_model(model)), attention_rate)
    plain, alike = batches_of(packs)[:num_batches], windowed(packs, share)
    rows = []
    for size in DATA_RANKS:
        cells: dict[str, float] = {
            "naive": float(np.mean([lost_naively(batch, share, size) for batch in plain]))
        }
        most = 0
        for name, batches, ranks, balance in (
            ("packs", plain, Ranks(size), "packs"),
            ("documents", plain, Ranks(size), "documents"),
            ("auto", plain, Ranks(size), "auto"),
            ("auto, groups of 8", plain, Ranks(size, GROUP), "auto"),
            ("auto, all wait", plain, Ranks(size, size), "auto"),
            ("window 16, auto", alike, Ranks(size), "auto"),
        ):
            found = [lost(batch, share, ranks, balance) for batch in batches]
            cells[name] = float(np.mean([share_lost for share_lost, _ in found]))
            if name == "auto":
                most = max(steps for _, steps in found)
        rows.append({"model": model, "data_ranks": size, "lost": cells, "micro_steps": most})
    return rows


def show(result: dict[str, object]) -> None:
    rows = result["rows"]
    names = list(rows[0]["lost"])
    print(f"share of a step lost to waiting, % (simulation; {result['mixture']})")
    print(" | ".join(["model", "data ranks", "packs per rank", *names]))
    for row in rows:
        cells = [f"{100 * row['lost'][name]:.2f}".rjust(len(name)) for name in names]
        per_rank = str(BATCH_SIZE // row["data_ranks"])
        print(
            " | ".join(
                [
                    row["model"].rjust(5),
                    str(row["data_ranks"]).rjust(10),
                    per_rank.rjust(14),
                    *cells,
                ]
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mean", type=float, default=7500, help="tokens of a document")
    parser.add_argument("--sigma", type=float, default=0.7, help="of the logarithm of the length")
    parser.add_argument("--batches", type=int, default=8, help="batches to average over")
    parser.add_argument(
        "--attention-rate",
        type=float,
        default=ATTENTION_RATE,
        help="speed of attention over that of matrix products",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file")
    arguments = parser.parse_args()
    began = time.process_time()
    num_packs = (WINDOW + 1) * BATCH_SIZE
    packs = draw_packs(num_packs, arguments.mean, arguments.sigma, arguments.seed)
    lengths = np.concatenate(packs)
    mixture = (
        f"{len(lengths):,} documents of {lengths.mean():,.0f} tokens on average, sigma"
        f" {arguments.sigma}, S_eff {effective_length(lengths.tolist()):,.0f}, packs of"
        f" {PACK_SIZE:,} filled to {lengths.sum() / len(packs) / PACK_SIZE:.2%},"
        f" {BATCH_SIZE} packs a step, attention at {arguments.attention_rate:g} of the speed of"
        " products"
    )
    rows = [
        row
        for model in MODELS
        for row in simulate(packs, model, arguments.batches, arguments.attention_rate)
    ]
    result = {
        "kind": "simulation, no device was used",
        "mixture": mixture,
        "settings": {key: str(value) for key, value in vars(arguments).items() if key != "out"},
        "cpu_seconds": round(time.process_time() - began, 1),
        "rows": rows,
    }
    show(result)
    if arguments.out:
        write_text(arguments.out, json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
