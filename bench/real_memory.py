"""Resident memory of real optimizer steps on this computer's CPU, against the memory model.

    python bench/real_memory.py compile=false recompute=full

One process, real tensors, a small model. Freed memory is given back to the system at once, so the
peak of the resident memory is that of the tensors (and of kernels' workspace). Prints JSON: the
peak of a step above what stays between steps, and the total with the states, both measured and
modelled.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
import yaml

from longrun.config.training import OptimizerSettings
from longrun.nn.architecture import Arch
from longrun.nn.costs import ModelShape
from longrun.nn.decoder import Decoder
from longrun.optim.optimizers import build_optimizers
from longrun.parallel.context import lay_out
from longrun.parallel.data import distribute
from longrun.parallel.layouts import Layout
from longrun.parallel.mesh import Mesh
from longrun.plan.memory import StepSettings, step_memory
from longrun.plan.models import NAMED

SMALL_BLOCKS = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Settings of glibc that make it return freed blocks."""
DEFAULTS = {
    "layers": 4,
    "hidden": 512,
    "intermediate": 2560,
    "heads": 8,
    "kv_heads": 2,
    "vocab_size": 8192,
    "recompute": "none",
    "dtype": "bfloat16",
    "compile": False,
    "pack_size": 4096,
    "micro_steps": 2,
    "chunk_tokens": 512,
}


def arch_of(settings: dict) -> Arch:
    sizes = {
        "num_hidden_layers": settings["layers"],
        "hidden_size": settings["hidden"],
        "intermediate_size": settings["intermediate"],
        "num_attention_heads": settings["heads"],
        "num_key_value_heads": settings["kv_heads"],
        "vocab_size": settings["vocab_size"],
    }
    return Arch.from_hf(NAMED["7b"] | sizes, "small")


def resident(field: str) -> int:
    """Return bytes of ``VmRSS`` (now) or ``VmHWM`` (the peak)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}; this needs Linux")


def measure(settings: dict) -> int:
    """Return the peak of a step above the memory between steps, in bytes."""
    mesh, layout = Mesh(0, 1, torch.device("cpu"), "none"), Layout()
    with torch.device("meta"):
        model = Decoder(
            arch_of(settings),
            backend="sdpa",
            recompute=settings["recompute"],
            compute_dtype=getattr(torch, settings["dtype"]),
        )
    distributed = distribute(model, mesh, layout, compiled=settings["compile"])
    model.initialise(0)
    optimizers = build_optimizers(model, OptimizerSettings())
    size = settings["pack_size"]
    lengths = [size // 2, size // 4, size // 4]
    documents = [(np.arange(n, dtype=np.int32), np.ones(n, np.float32)) for n in lengths]
    pack = lay_out(documents, mesh)
    between = 0
    for step in range(3):  # the first ones allocate the moments and compile
        if step == 2:
            between = resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        distributed.begin_step()
        for index in range(settings["micro_steps"]):
            last = index == settings["micro_steps"] - 1
            distributed.begin_micro_step(last)
            loss = model.loss(pack, chunk_tokens=settings["chunk_tokens"])
            (loss / size).backward()
            distributed.end_backward(last)
        del loss
        optimizers.step(1e-4)
    return resident("VmHWM") - between


def main() -> None:
    if not SMALL_BLOCKS.items() <= os.environ.items():  # glibc reads them when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | SMALL_BLOCKS)
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    unknown = given.keys() - DEFAULTS.keys()
    if unknown:
        raise SystemExit(f"unknown: {', '.join(unknown)}; known: {', '.join(DEFAULTS)}")
    settings = DEFAULTS | {name: yaml.safe_load(value) for name, value in given.items()}
    torch.set_num_threads(1)
    began = time.process_time()
    measured = measure(settings)
    modelled = step_memory(
        ModelShape.of(arch_of(settings)),
        Layout(),
        StepSettings(
            pack_tokens=settings["pack_size"],
            recompute=settings["recompute"],
            compute_bytes=2 if settings["dtype"] == "bfloat16" else 4,
            compiled=settings["compile"],
            loss_chunk_tokens=settings["chunk_tokens"],
            micro_steps=settings["micro_steps"],
        ),
    )
    above = modelled.total_bytes - modelled.runtime_bytes - modelled.states_bytes
    result = {
        "settings": settings,
        "measured_bytes": measured + modelled.states_bytes,
        "modelled_bytes": above + modelled.states_bytes,
        "modelled_over_measured": (above + modelled.states_bytes)
        / (measured + modelled.states_bytes),
        "above_states_modelled_over_measured": above / measured,
        "moment": modelled.moment,
        "cpu_seconds": round(time.process_time() - began, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
