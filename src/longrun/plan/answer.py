"""A plan for people, for programs and for ``train``: a table, a JSON document, YAML settings."""

import re
from collections import Counter
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from longrun.plan.search import GIB, Choice, Option, Plan, Planner

HEADLINE = "Modelled from sizes, lengths and assumed rates; nothing here was measured."
_COLUMNS = (
    ("data", "right"),
    ("context", "right"),
    ("tensor", "right"),
    ("sharding", "left"),
    ("recompute", "left"),
    ("GiB/GPU", "right"),
    ("s/step", "right"),
    ("tokens/s/GPU", "right"),
    ("tokens/s", "right"),
    ("MFU %", "right"),
    ("waits %", "right"),
    ("talks %", "right"),
    ("weights %", "right"),
    ("days", "right"),
    ("GPU hours", "right"),
)


def print_answer(console: Console, planner: Planner, plan: Plan, *, every: bool) -> None:
    """Print what was assumed, the ranked layouts and the reasons against the others."""
    for line in _assumptions(planner):
        console.print(line, highlight=False)
    table = Table(title=HEADLINE, title_justify="left")
    for name, side in _COLUMNS:
        table.add_column(name, justify="right" if side == "right" else "left")
    for option in plan.ranked:
        table.add_row(*_cells(planner, option))
    console.print(table)
    if plan.num_slower:
        console.print(f"{plan.num_slower:,} more fit: slower, or like these.", highlight=False)
    if every:
        _print_rejected(console, plan)
    else:
        _print_reasons(console, plan)


def as_document(planner: Planner, plan: Plan) -> dict[str, Any]:
    """Return the answer as a JSON document; sizes in bytes, times in seconds."""
    return {
        "kind": HEADLINE,
        "assumptions": _assumptions(planner),
        "settings": planner.settings.model_dump(mode="json"),
        "rates": planner.machine.rates.model_dump(),
        "steps": planner.workload.num_steps,
        "ranked": [_document(planner, option) for option in plan.ranked],
        "slower": plan.num_slower,
        "rejected": [
            {**_choice(option.choice), "reason": option.reason} for option in plan.rejected
        ],
    }


def train_settings(planner: Planner, option: Option) -> dict[str, Any]:
    """Return the settings of ``train`` that ``option`` stands for."""
    settings, choice = planner.settings, option.choice
    chosen: dict[str, Any] = {
        "global_batch_size": settings.global_batch_size,
        "dtype": settings.dtype,
        "optimizer": {
            "name": choice.optimizer,
            "states": choice.states,
            "weights": choice.weights,
        },
        "num_nodes": settings.num_nodes,
        "num_processes": settings.num_processes,
        "tensor_parallel": choice.layout.tensor,
        "context_parallel": choice.layout.context,
        "sharding": choice.layout.sharding,
        "shard_size": choice.layout.shard_size,
        "recompute": choice.recompute,
        "compile": settings.compile,
        "loss_chunk_tokens": settings.loss_chunk_tokens,
        "balance": settings.balance,
    }
    if settings.packs is not None:
        chosen["packs"] = str(settings.packs)
    return chosen


def _assumptions(planner: Planner) -> list[str]:
    settings, workload, rates = planner.settings, planner.workload, planner.machine.rates
    steps = "unknown" if workload.num_steps is None else f"{workload.num_steps:,}"
    return [
        f"{settings.model}: {planner.shape.parameters / 1e9:.2f} G parameters on"
        f" {settings.num_nodes} x {settings.num_processes} {settings.gpu} of"
        f" {rates.memory_gib:g} GiB, of which {planner.usable_bytes / GIB:.1f} may be filled",
        f"lengths: {workload.source}; S_eff {workload.effective_length:,.0f}; steps of"
        f" {settings.global_batch_size} packs, {workload.tokens_per_step:,.0f} tokens; steps:"
        f" {steps}",
        f"rates, assumed unless set: products {rates.matrix_tflops:g} TFLOP/s, attention"
        f" {rates.attention_forward_tflops:g} forward and {rates.attention_backward_tflops:g}"
        f" backward, memory {rates.memory_terabytes_per_second:g} TB/s, links"
        f" {rates.node_gigabytes_per_second:g} and {rates.network_gigabytes_per_second:g} GB/s"
        f" inside and between machines; MFU of {rates.peak_tflops:g} TFLOP/s",
    ]


def _cells(planner: Planner, option: Option) -> list[str]:
    time, memory = option.time, option.memory
    assert time is not None
    assert memory is not None
    tokens, days = planner.tokens_per_second(option), planner.days(option)
    choice = option.choice
    kinds = choice.optimizer, choice.states, choice.weights
    unusual = [kind for kind in kinds if kind not in ("adamw", "float32")]
    policy = ", ".join([choice.recompute, *unusual])
    weights = time.weights_seconds + time.optimizer_seconds
    return [
        str(choice.layout.data),
        str(choice.layout.context),
        str(choice.layout.tensor),
        choice.layout.sharding + (f" {choice.layout.shards}" if choice.layout.shards > 1 else ""),
        policy,
        f"{memory.total_bytes / GIB:.1f}",
        f"{time.seconds:.2f}",
        f"{tokens / planner.num_ranks:,.0f}",
        f"{tokens:,.0f}",
        f"{100 * planner.flops_utilization(option):.1f}",
        f"{100 * time.waiting_seconds / time.seconds:.1f}",
        f"{100 * time.talking_seconds / time.seconds:.1f}",
        f"{100 * weights / time.seconds:.1f}",
        "-" if days is None else f"{days:.2f}",
        "-" if days is None else f"{24 * days * planner.num_ranks:,.0f}",
    ]


def _document(planner: Planner, option: Option) -> dict[str, Any]:
    assert option.time is not None
    assert option.memory is not None
    days = planner.days(option)
    return {
        **_choice(option.choice),
        "memory": {**asdict(option.memory), "total_bytes": option.memory.total_bytes},
        "time": {**asdict(option.time), "seconds": option.time.seconds},
        "tokens_per_second": planner.tokens_per_second(option),
        "tokens_per_second_per_gpu": planner.tokens_per_second(option) / planner.num_ranks,
        "flops_utilization": planner.flops_utilization(option),
        "days": days,
        "gpu_hours": None if days is None else 24 * days * planner.num_ranks,
    }


def _choice(choice: Choice) -> dict[str, Any]:
    return {
        **asdict(choice.layout),
        "data": choice.layout.data,
        "recompute": choice.recompute,
        "optimizer": choice.optimizer,
        "states": choice.states,
        "weights": choice.weights,
    }


def _print_rejected(console: Console, plan: Plan) -> None:
    table = Table(title="Cannot be", title_justify="left")
    for name in ("layout", "recompute", "reason"):
        table.add_column(name)
    for option in plan.rejected:
        choice = option.choice
        table.add_row(str(choice.layout), choice.recompute, option.reason or "")
    console.print(table)


def _print_reasons(console: Console, plan: Plan) -> None:
    """Print how many layouts each kind of reason rejects; numbers in reasons do not matter."""
    kinds = Counter(re.sub(r"\d+(\.\d+)?", "N", option.reason or "") for option in plan.rejected)
    for kind, count in kinds.most_common():
        console.print(f"{count:,} rejected: {kind}", highlight=False)
    if kinds:
        console.print("--all lists every one.", highlight=False)
