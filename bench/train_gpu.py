"""Measure one GPU: what it reaches, whether Longrun is right, and who trains fastest on it.

    python bench/train_gpu.py --out runs/bench-gpu            a GPU, at most 8 minutes
    python bench/train_gpu.py --smoke --out runs/bench-smoke  any CPU, a tiny model: does it run?

No network. Every stage runs in a fresh process with a time limit; what it measured is in
``OUT/NAME.json`` when it ends and in ``OUT/train_gpu.json`` with all others, so an interrupted run
keeps what it had. Missing packages are reported and left out. One table at the end.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import contest
from contest import Outcome
from gpu.report import show
from gpu.stages import SMOKE, STAGES

PACKAGES = ("torch", "triton", "transformers", "accelerate", "trl", "liger-kernel", "flash-attn-4")
LAST = "ours-again"
LAST_SECONDS = 45.0
"""Kept for the stage that shows drift."""
LEAST_SECONDS = 10.0
"""A stage is not started with less."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every stage, print the table, and return 1 if a law of the engine was broken."""
    options = _parse(arguments)
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    case = SMOKE if options.smoke else options.case
    began, outcomes = time.monotonic(), list[Outcome]()
    for name in options.stages:
        left = options.budget - (time.monotonic() - began)
        left -= LAST_SECONDS if LAST in options.stages and name != LAST else 0.0
        outcomes.append(_run(name, case, options.out, left))
        print(f"{name}: {outcomes[-1].status}, {outcomes[-1].seconds:.0f} s", flush=True)
        document = {
            "case": case,
            "processor": contest.processor_name(),
            "versions": contest.versions(PACKAGES),
            "outcomes": contest.as_rows(outcomes),
        }
        contest.write_json(options.out / "train_gpu.json", document)
    print(show(outcomes))
    laws = next(
        (one.measured.get("found", []) for one in outcomes if one.name == "correctness"), []
    )
    return int(any(not law["holds"] for law in laws))


def _run(name: str, case: str, out: Path, left_seconds: float) -> Outcome:
    if left_seconds < LEAST_SECONDS:
        return Outcome(name, "left out", 0.0, problem="no time left")
    result = out / f"{name}.json"
    return contest.run(
        name,
        [sys.executable, "-m", "gpu.stages", name, case, str(result)],
        result,
        cap_seconds=min(STAGES[name].cap_seconds, left_seconds),
        environment={
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # the correctness stage asks for repeatable bits
            "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR": str(out / "fa4"),
            "FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTORCH_ALLOC_CONF": "expandable_segments:True",
            "TORCHINDUCTOR_CACHE_DIR": str(out / "inductor"),
        },
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/bench-gpu"))
    parser.add_argument("--case", default="1.5b", choices=["1.5b", "7b"])
    parser.add_argument("--budget", type=float, default=480.0, help="seconds for everything")
    parser.add_argument("--stages", nargs="+", choices=STAGES, help="default: all")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, any device")
    options = parser.parse_args(arguments)
    if options.stages is None:
        options.stages = [n for n, s in STAGES.items() if not (options.smoke and s.variant)]
    return options


if __name__ == "__main__":
    sys.exit(main())
