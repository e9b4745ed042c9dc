"""Train the same model on the same packs with Longrun and with its peers, on the CPU.

    python bench/train_cpu.py --out runs/bench-cpu

Each contender trains in a fresh process, in turn, ``--repeats`` times. It prints tokens per second
of process CPU time and of wall time (tokens without padding; the median of the repeats), the rise
of resident memory above the process that has imported torch, and the loss of every step side by
side. Missing peers are reported and left out. Everything measured goes to ``OUT/train_cpu.json``.

The ratio is against the fastest peer that keeps documents apart. ``hf-concatenated`` does not: its
losses show by how much that changes what is learned.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import contest
from contest import Outcome
from cpu import workload
from cpu.contenders import CONTENDERS

PACKAGES = ("torch", "transformers", "accelerate", "trl", "datasets")
CAP_SECONDS = 900.0


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    options.out = options.out.resolve()  # contenders run elsewhere
    options.out.mkdir(parents=True, exist_ok=True)
    reports = []
    for dtype in options.dtypes:
        settings = replace(
            workload.Settings(),
            dtype=dtype,
            threads=options.threads,
            num_packs=options.packs,
            **dict(options.set),
        )
        with tempfile.TemporaryDirectory() as folder:
            workload.write(Path(folder), settings)
            lengths = [[len(d.tokens) for d in pack] for pack in workload.read_packs(Path(folder))]
            outcomes = _compete(Path(folder), settings, options)
        report = {"settings": asdict(settings), "lengths": lengths, **summarise(outcomes, settings)}
        reports.append(report)
        contest.write_json(options.out / "train_cpu.json", _document(reports))
        print(show(report), flush=True)


def _compete(
    folder: Path, settings: workload.Settings, options: argparse.Namespace
) -> dict[str, list[Outcome]]:
    outcomes: dict[str, list[Outcome]] = {name: [] for name in options.contenders}
    environment = {"OMP_NUM_THREADS": str(settings.threads), "CUDA_VISIBLE_DEVICES": ""}
    for repeat in range(options.repeats):
        for name in options.contenders:
            result = options.out / f"{settings.dtype}-{name}-{repeat}.json"
            command = [sys.executable, "-m", "cpu.contender", name, str(folder), str(result)]
            outcome = contest.run(
                name, command, result, cap_seconds=CAP_SECONDS, environment=environment
            )
            print(f"{settings.dtype} {name}: {outcome.status}, {outcome.seconds:.0f} s", flush=True)
            outcomes[name].append(outcome)
    return outcomes


def summarise(outcomes: dict[str, list[Outcome]], settings: workload.Settings) -> dict[str, Any]:
    """Return the medians of each contender and the ratio to the fastest right peer."""
    rows = {}
    for name, repeats in outcomes.items():
        good = [outcome.measured for outcome in repeats if outcome.ok]
        if not good:
            rows[name] = {"status": repeats[0].status, "problem": repeats[0].problem}
            continue
        rows[name] = {
            "status": "ok",
            **{key: statistics.median(one[key] for one in good) for key in MEDIANS},
            "spread": _spread([one["cpu_tokens_per_second"] for one in good]),
            "losses": good[0]["losses"],
            "repeats": len(good),
        }
    speeds = {
        name: row["cpu_tokens_per_second"]
        for name, row in rows.items()
        if row["status"] == "ok" and name != "longrun" and CONTENDERS[name][3]
    }
    ratio = None
    if speeds and rows.get("longrun", {}).get("status") == "ok":
        ratio = rows["longrun"]["cpu_tokens_per_second"] / max(speeds.values())
    fastest = max(speeds, key=speeds.__getitem__) if speeds else None
    return {
        "contenders": rows,
        "fastest_peer": fastest,
        "ratio": ratio,
        "steps": settings.num_packs,
    }


MEDIANS = (
    "cpu_tokens_per_second",
    "wall_tokens_per_second",
    "peak_bytes",
    "peak_rise_bytes",
)


def _spread(values: list[float]) -> float:
    """Return (largest - smallest) / median."""
    return (max(values) - min(values)) / statistics.median(values)


def show(report: dict[str, Any]) -> str:
    """Return the two tables and the ratio of one compute type."""
    rows = report["contenders"]
    good = {name: row for name, row in rows.items() if row["status"] == "ok"}
    base = good.get("longrun", {}).get("losses")
    speed = [_speed_row(name, row, base) for name, row in rows.items()]
    losses = [
        [str(step), *(f"{row['losses'][step]:.6f}" for row in good.values())]
        for step in range(report["steps"])
    ]
    parts = [
        f"\n{report['settings']['dtype']}, {report['settings']['threads']} thread(s)\n",
        contest.table(HEADER, speed),
        "",
        contest.table(["step", *good], losses),
    ]
    if report["ratio"] is not None:
        parts.append(
            f"\nLongrun / {report['fastest_peer']}: {report['ratio']:.2f} times the tokens per CPU"
            " second"
        )
    return "\n".join(parts)


HEADER = (
    "contender",
    "tokens/CPU s",
    "spread",
    "tokens/wall s",
    "memory rise",
    "largest difference of a loss",
)


def _speed_row(name: str, row: dict[str, Any], base: list[float] | None) -> list[str]:
    title = CONTENDERS[name][0]
    if row["status"] != "ok":
        return [title, row["status"], "", "", "", str(row["problem"]).strip().splitlines()[-1][:60]]
    difference = ""
    if base is not None:
        pairs = zip(row["losses"], base, strict=True)
        difference = f"{max(abs(one - other) / other for one, other in pairs):.1e}"
    return [
        title,
        f"{row['cpu_tokens_per_second']:,.0f}",
        f"{row['spread']:.1%}",
        f"{row['wall_tokens_per_second']:,.0f}",
        f"{row['peak_rise_bytes'] / 2**20:,.0f} MiB",
        difference,
    ]


def _document(reports: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "processor": contest.processor_name(),
        "versions": contest.versions(PACKAGES),
        "reports": reports,
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/bench-cpu"))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--packs", type=int, default=workload.Settings.num_packs)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--set", nargs="+", type=_setting, default=[], help="sizes, such as hidden=64 layers=2"
    )
    return parser.parse_args(arguments)


def _setting(text: str) -> tuple[str, int]:
    key, _, value = text.partition("=")
    return key, int(value)


if __name__ == "__main__":
    main()
