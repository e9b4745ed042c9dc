"""Everything that ``train_gpu.py`` runs, in order; each stage has a process of its own.

``python -m gpu.stages NAME CASE RESULT`` runs one and writes what it measured.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import contest

SMOKE = "tiny"


@dataclass(frozen=True)
class Stage:
    """One process."""

    title: str
    kind: str
    """ceilings, correctness, attention, breakdown, or contender."""
    options: dict[str, Any]
    packages: tuple[str, ...] = ()
    cap_seconds: float = 70.0
    variant: bool = False
    """The code of an earlier stage with another setting: a smoke test learns nothing from it."""


def _ours(**options: Any) -> dict[str, Any]:
    return {"who": "longrun", "attention": "auto", "recompute": "", "compiled": True, **options}


def _rival(**options: Any) -> dict[str, Any]:
    return {"who": "rival", **options}


HF, TRL = ("transformers", "accelerate"), ("transformers", "accelerate", "trl", "datasets")
STAGES = {
    "ceilings": Stage("what the device reaches", "ceilings", {}, cap_seconds=40),
    "correctness": Stage("Longrun against float32", "correctness", {}, cap_seconds=90),
    "attention": Stage("attention backends", "attention", {}, cap_seconds=70),
    "ours": Stage("Longrun", "contender", _ours()),
    "hf-varlen": Stage("Trainer, varlen, checkpointing", "contender", _rival(), HF),
    "recipe": Stage(
        "torchtitan-style recipe, every second product kept",
        "contender",
        {"who": "recipe", "recompute": "half", "compiled": True},
    ),
    "recipe-keep": Stage(
        "torchtitan-style recipe, no recomputation",
        "contender",
        {"who": "recipe", "recompute": "none", "compiled": True},
        variant=True,
    ),
    "hf-liger": Stage(
        "Trainer, varlen, Liger kernels, checkpointing",
        "contender",
        _rival(liger=True),
        (*HF, "liger_kernel"),
    ),
    "trl": Stage("TRL SFTTrainer, varlen, checkpointing", "contender", _rival(trl=True), TRL),
    "breakdown": Stage("one step of Longrun, profiled", "breakdown", _ours(), cap_seconds=50),
    "ours-eager": Stage("Longrun, not compiled", "contender", _ours(compiled=False), variant=True),
    "ours-fa2": Stage(
        "Longrun, torch's flash kernel", "contender", _ours(attention="torch_varlen")
    ),
    "ours-recompute": Stage(
        "Longrun, recompute full", "contender", _ours(recompute="full"), variant=True
    ),
    "hf-keep": Stage(
        "Trainer, varlen, no checkpointing",
        "contender",
        _rival(checkpointing=False),
        HF,
        variant=True,
    ),
    "hf-fa4": Stage(
        "Trainer, flash_attention_4, checkpointing",
        "contender",
        _rival(attention="flash_attention_4"),
        (*HF, "flash_attn.cute"),
    ),
    "hf-sdpa": Stage(
        "Trainer, sdpa as it comes, checkpointing",
        "contender",
        _rival(attention="sdpa"),
        HF,
        variant=True,
    ),
    "ours-again": Stage("Longrun, again at the end", "contender", _ours(), variant=True),
}
"""Name -> stage, in the order of importance: the budget may end before the list."""


def compute(stage: Stage, case_name: str) -> dict[str, Any]:
    """Run a stage in this process; raises what it raises."""
    from gpu import attention, breakdown, ceilings, correctness
    from gpu.cases import CASES, phases

    case, smoke = CASES[case_name], case_name == SMOKE
    simple: dict[str, Callable[..., Any]] = {
        "ceilings": ceilings.measure,
        "correctness": correctness.measure,
        "attention": attention.measure,
    }
    if stage.kind in simple:
        return {"found": simple[stage.kind](case, smoke=smoke)}
    options = dict(stage.options)
    who = options.pop("who")
    if "compiled" in options:
        options["compiled"] = options["compiled"] and not smoke
    if who == "longrun":
        options["recompute"] = options["recompute"] or case.recompute
        obstacle = _obstacle(options["attention"], case.head_dim)
        if obstacle is not None:
            return {"left_out": f"attention={options['attention']}: {obstacle}"}
    if stage.kind == "breakdown":
        return {"found": breakdown.measure(case, **options)}
    return _contend(who, case, phases(case), options)


def _contend(who: str, case: Any, chosen: Any, options: dict[str, Any]) -> dict[str, Any]:
    from gpu import ours, recipe, rivals

    if who == "longrun":
        return ours.train(case, chosen, **options)
    if who == "recipe":
        return recipe.train(case, chosen, **options)
    return rivals.train(case, chosen, rivals.Rival(**options))


def _obstacle(attention: str, head_dim: int) -> str | None:
    import torch

    from gpu.cases import device
    from longrun.nn.kernels import KERNELS, KernelRequest

    if attention == "auto":
        return None
    return KERNELS[attention].obstacle(KernelRequest(device(), torch.bfloat16, head_dim))


def main() -> None:
    """Run the stage that the command line names."""
    name, case_name, result = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    stage = STAGES[name]
    lacking = contest.missing(stage.packages)
    if lacking is not None:
        contest.write_json(result, {"left_out": f"{lacking} is not installed"})
        return
    contest.write_json(result, compute(stage, case_name))


if __name__ == "__main__":
    main()
