"""CPU seconds, memory, fill and read rate of the data path, with peers in the same run.

    python bench/data_path.py --records a.jsonl b.jsonl --tokenizer FOLDER --out result.json

Without ``--records`` the text is generated, without ``--tokenizer`` one is trained on it. Peers
need ``pip install datasets trl``; without them they are left out and the output says so. Times
are CPU seconds of the whole process tree. Longrun's start-up (imports, loading and checking the
tokenizer, cold caches) is left out by taking the difference of a large and a small run; the peers'
by starting the clock after loading. Figures are medians of rounds in turn. Packing is plain Python
at these sizes; of large data it takes less, see the table of packers.
"""

import argparse
import importlib.util
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from corpus import generated_rows, read_rows, write_corpus
from data_peers import measure_lists, measure_trl
from packing import compare_packers

SMALL_MB = 30
PEERS = {"trl": measure_trl, "lists": measure_lists}


def main() -> None:
    """Run everything and print one table."""
    options = _parse()
    if options.measure:
        print(json.dumps(_measure(options.measure, *map(Path, options.on))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = options.tokenizer or _train_tokenizer(folder)
        result = {"end_to_end": _end_to_end(options, folder, tokenizer)}
        result["unseen_text"] = _unseen(folder, tokenizer)
        result["reading"] = _measure_reading(folder / "large-packs")
        result["packing"] = [row for count in options.documents for row in compare_packers(count)]
    for section, rows in result.items():
        print(f"\n{section}")
        for row in rows if isinstance(rows, list) else [rows]:
            print("  " + ", ".join(f"{key} {_short(value)}" for key, value in row.items()))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, nargs="*", default=[])
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--megabytes", type=int, default=330, help="size of Longrun's large run")
    parser.add_argument("--peer-megabytes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5, help="of all, in turns; medians are shown")
    parser.add_argument("--documents", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("on", nargs="*", help=argparse.SUPPRESS)
    return parser.parse_args()


def _end_to_end(
    options: argparse.Namespace, folder: Path, tokenizer: Path
) -> list[dict[str, object]]:
    rows = read_rows(options.records) if options.records else generated_rows()
    sizes = {"small": SMALL_MB, "large": options.megabytes, "peers": options.peer_megabytes}
    for name, megabytes in sizes.items():
        write_corpus(folder / f"{name}.jsonl", rows, megabytes * 1_000_000, seed=len(name))
    peers = [peer for peer in PEERS if _is_there(peer)]
    rounds = [_measure_round(options, folder, tokenizer, peers) for _ in range(options.rounds)]
    found: list[dict[str, object]] = []
    for path in ("longrun", *peers):
        rows = [one[path] for one in rounds]
        seconds = [row["cpu_seconds_per_gb"] for row in rows]
        middle: dict[str, object] = {key: median(row[key] for row in rows) for key in rows[0]}
        found.append({"path": path, **middle, "least": min(seconds), "most": max(seconds)})
    return found


def _is_there(peer: str) -> bool:
    if peer == "trl" and not all(map(importlib.util.find_spec, ("datasets", "trl"))):
        print("trl: left out, `pip install datasets trl` brings it in")
        return False
    return True


def _measure_round(
    options: argparse.Namespace, folder: Path, tokenizer: Path, peers: list[str]
) -> dict[str, dict[str, float]]:
    """Return one row of figures for Longrun and for each of ``peers``, measured one by one."""
    for output in ("small", "large", "small-packs", "large-packs", *peers):
        shutil.rmtree(folder / output, ignore_errors=True)
    small, large = (
        _in_own_process("longrun", folder / f"{name}.jsonl", tokenizer, folder / name)
        for name in ("small", "large")
    )
    gigabytes = (options.megabytes - SMALL_MB) / 1000
    ours = (large["cpu_seconds"] - small["cpu_seconds"]) / gigabytes
    packing = (large["pack_cpu_seconds"] - small["pack_cpu_seconds"]) / gigabytes
    rows = {
        "longrun": {
            "cpu_seconds_per_gb": ours,
            "of_which_prepare": ours - packing,
            "start_up_cpu_seconds": small["cpu_seconds"] - ours * SMALL_MB / 1000,
            "tokens_per_cpu_second": large["tokens"] / (ours * options.megabytes / 1000),
            "peak_mb": large["peak_mb"],
            "fill": large["fill"],
        }
    }
    for peer in peers:
        (folder / peer).mkdir()
        measured = _in_own_process(peer, folder / "peers.jsonl", tokenizer, folder / peer)
        theirs = measured["cpu_seconds"] / (options.peer_megabytes / 1000)
        rows[peer] = {
            "cpu_seconds_per_gb": theirs,
            "peak_mb": measured["peak_mb"],
            "longrun_is_faster_by": theirs / ours,
        }
    return rows


def _in_own_process(system: str, *on: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", system, *map(str, on)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _measure(system: str, records: Path, tokenizer: Path, folder: Path) -> dict[str, float]:
    measured = (
        _measure_longrun(records, tokenizer, folder)
        if system == "longrun"
        else PEERS[system](records, tokenizer, folder)
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return measured | {"peak_mb": peak}


def _measure_longrun(records: Path, tokenizer: Path, folder: Path) -> dict[str, float]:
    from longrun.config.stages import PackConfig, PrepareConfig
    from longrun.data.documents import prepare
    from longrun.data.packs import pack

    settings = {"data": str(records), "tokenizer": tokenizer, "output_dir": folder}
    done = prepare.run(
        PrepareConfig.parse(settings | {"num_workers": 1, "memory_mb": 600}, "prepare")
    )
    prepared = time.process_time()
    packs = folder.with_name(f"{folder.name}-packs")
    packed = pack.run(PackConfig(documents=folder, output_dir=packs, max_dropped_share=1.0))
    seconds = time.process_time()
    return {
        "cpu_seconds": seconds,
        "pack_cpu_seconds": seconds - prepared,
        "tokens": done.counts["tokens"],
        "fill": packed.counts["fill"],
    }


def _unseen(folder: Path, tokenizer: Path) -> dict[str, float]:
    """Prepare 60 MB of words that occur once each: does the encoder's cache stay bounded?"""
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz     ", np.uint8)
    with open(folder / "unseen.jsonl", "w") as file:
        for _ in range(3000):
            text = letters[rng.integers(0, len(letters), 20_000)].tobytes().decode()
            record = {"problem": text[:50], "generated_solution": text, "inference_mode": "cot"}
            file.write(json.dumps(record) + "\n")
    measured = _in_own_process("longrun", folder / "unseen.jsonl", tokenizer, folder / "unseen")
    return {"megabytes": 60, "peak_mb": measured["peak_mb"]}


def _measure_reading(packs: Path) -> dict[str, float]:
    """Gather packs in random order, everything in the page cache."""
    from longrun.formats.plans import PackSet

    opened = PackSet.open(packs)
    plan, documents = opened.plan(0), opened.training
    buffer = np.empty(opened.pack_size, np.int32)
    raw = np.fromfile(next((opened.source / "train").glob("*.bin")), np.int32)
    order = np.random.default_rng(0).integers(0, len(plan), 3000).tolist()
    for timed in (False, True):  # the first round warms the page cache
        began = time.process_time()
        for pack in order:
            members = [documents[document].tokens for document in plan[pack].tolist()]
            np.concatenate(members, out=buffer[: sum(map(len, members))])
        gathered = time.process_time() - began
        assert timed or gathered
    starts = np.random.default_rng(1).integers(0, len(raw) - len(buffer), len(order)).tolist()
    began = time.process_time()
    for start in starts:
        buffer[:] = raw[start : start + len(buffer)]
    copied = time.process_time() - began
    return {
        "microseconds_per_pack": gathered / len(order) * 1e6,
        "plain_copy_microseconds": copied / len(order) * 1e6,
    }


def _train_tokenizer(folder: Path) -> Path:
    from longrun.config.stages import TrainTokenizerConfig
    from longrun.data.synthetic import train_tokenizer

    write_corpus(folder / "text.jsonl", generated_rows(), 3_000_000, seed=0)
    settings = {"data": folder / "text.jsonl", "output_dir": folder / "tokenizer"}
    train_tokenizer.run(TrainTokenizerConfig.parse(settings, "train_tokenizer"))
    return folder / "tokenizer"


def _short(value: object) -> object:
    return f"{value:.5g}" if isinstance(value, float) else value


if __name__ == "__main__":
    main()
