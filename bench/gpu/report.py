"""The tables at the end of ``train_gpu.py``."""

from collections.abc import Sequence
from typing import Any

from contest import Outcome, table
from gpu.stages import STAGES

STEP_0_BOUND = 1e-3
"""Largest relative difference of a contender's first loss to Longrun's that is the same work."""
PROBLEM_CHARACTERS = 70


def show(outcomes: Sequence[Outcome]) -> str:
    """Return every table that can be made of what was measured."""
    by_name = {outcome.name: outcome for outcome in outcomes}
    found = {name: one.measured.get("found") for name, one in by_name.items() if one.ok}
    parts = []
    if found.get("ceilings"):
        parts.append(_ceilings(found["ceilings"]))
    if found.get("correctness"):
        parts.append(_laws(found["correctness"]))
    if found.get("attention"):
        parts.append(_attention(found["attention"]))
    square = _square(found.get("ceilings"))
    contenders = [one for one in outcomes if STAGES[one.name].kind == "contender"]
    for phase in _phase_names(contenders):
        parts.append(_contenders(phase, contenders, square))
    if found.get("breakdown"):
        parts.append(_breakdown(found["breakdown"]))
    absent = [[one.name, one.status, _last_line(one.problem)] for one in outcomes if not one.ok]
    if absent:
        parts.append("Not measured\n\n" + table(["stage", "status", "why"], absent))
    return "\n\n".join(["", *parts])


def _square(ceilings: dict[str, Any] | None) -> float | None:
    """Return the teraflops of the square product."""
    if not ceilings:
        return None
    return next(row["forward"] for name, row in ceilings["teraflops"].items() if "square" in name)


def _ceilings(found: dict[str, Any]) -> str:
    rows = [
        [name, *(f"{row[kind]:.3g}" for kind in row)] for name, row in found["teraflops"].items()
    ]
    header = ["TF/s of", "forward", "input gradient", "weight gradient"]
    copy = f"copy: {found['copy_terabytes_per_second']:.2f} TB/s, read and written"
    return f"{found['device']} {found['clocks']}\n\n{table(header, rows)}\n\n{copy}"


def _laws(found: list[dict[str, Any]]) -> str:
    rows = [
        [law["law"], f"{law['found']:.2g}", f"{law['bound']:.2g}", "yes" if law["holds"] else "NO"]
        for law in found
    ]
    return table(["law", "found", "bound", "holds"], rows)


def _attention(found: list[dict[str, Any]]) -> str:
    header = ["backend", "pack", "heads", "ms forward", "ms backward", "TF/s", "error", "repeats"]
    rows = []
    for row in found:
        why = row.get("skipped") or row.get("problem")
        if why:
            cells = [row.get("pack", ""), row.get("heads", ""), "", "", "", _last_line(why), ""]
        else:
            work = f"{row['forward_teraflops']:.3g} / {row['backward_teraflops']:.3g}"
            error = max(row[key] for key in row if key.startswith("error_"))
            cells = [row["pack"], row["heads"], f"{row['forward_ms']:.3g}"]
            cells += [f"{row['backward_ms']:.3g}", work, f"{error:.1e}"]
            cells += ["yes" if row["repeats_bitwise"] else "no"]
        rows.append([row["backend"], *cells])
    return table(header, rows)


def _phase_names(contenders: Sequence[Outcome]) -> list[str]:
    names: dict[str, None] = {}
    for one in contenders:
        names |= dict.fromkeys(one.measured.get("phases", {}))
    return list(names)


def _contenders(phase: str, contenders: Sequence[Outcome], square: float | None) -> str:
    measured = {
        one.name: one.measured["phases"][phase]
        for one in contenders
        if phase in one.measured.get("phases", {})
    }
    base = measured.get("ours")
    header = ["tokens/s", "ms (quartiles)", "TF/s", "MFU 989", "of square", "HFU", "peak GiB"]
    rows = []
    for name, row in measured.items():
        low, high = row["quartiles_ms"]
        share = f"{row['model_teraflops'] / square:.1%}" if square else ""
        rows.append(
            [
                STAGES[name].title,
                f"{row['tokens_per_second']:,.0f}",
                f"{row['median_ms']:.1f} ({low:.1f} to {high:.1f})",
                f"{row['model_teraflops']:.4g}",
                f"{row['mfu_989']:.1%}",
                share,
                f"{row['hfu_989']:.1%}",
                f"{row['peak_allocated'] / 2**30:.1f}",
                f"{row['first_step_seconds']:.1f}",
                *_losses(row, base),
            ]
        )
    header += ["first step s", "loss 0", "last loss", "same work"]
    return f"{phase}\n\n{table(['contender', *header], rows)}"


def _losses(row: dict[str, Any], base: dict[str, Any] | None) -> list[str]:
    first, last = row["losses"][0], row["losses"][-1]
    same = ""
    if base is not None:
        reference = base["losses"][0]
        same = "yes" if abs(first - reference) <= STEP_0_BOUND * reference else "NO"
    return [f"{first:.5f}", f"{last:.5f}", same]


def _breakdown(found: dict[str, Any]) -> str:
    wall = found["wall_seconds"]
    parts = {**found["parts"], "idle": found["idle_seconds"]}
    rows = [[name, f"{1e3 * s:.1f}", f"{s / wall:.1%}"] for name, s in parts.items()]
    return "one profiled step\n\n" + table(["part", "ms", "share"], rows)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:PROBLEM_CHARACTERS] if lines else ""
