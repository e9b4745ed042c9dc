"""Memory of rank 0 of a big training, step by step through the real engine, without the machines.

    python bench/fake_memory.py model=32b ranks=512 tensor=8 context=4 sharding=states

The engine runs two optimizer steps on tensors without data, in a process group that talks to
nobody, and every tensor is counted. All tokens are supervised. Prints JSON: bytes between steps and
the peak of the second step, and what ``longrun.plan.memory`` says.
"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import yaml
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

sys.path.insert(0, str(Path(__file__).parent))
from longrun.config.training import OptimizerSettings
from longrun.nn.costs import ModelShape
from longrun.nn.decoder import Decoder
from longrun.nn.pack import PackTensors
from longrun.optim.optimizers import build_optimizers
from longrun.parallel import data
from longrun.parallel.context import lay_out
from longrun.parallel.layouts import Layout, check_layout
from longrun.parallel.mesh import Mesh
from longrun.plan.memory import StepMemory, StepSettings, step_memory
from longrun.plan.models import NAMED, find_model
from peak_memory import PeakMemory

DEFAULTS = {
    "model": "0.5b",
    "layers": None,
    "ranks": 1,
    "tensor": 1,
    "context": 1,
    "sharding": "replicate",
    "shard_size": None,
    "recompute": "none",
    "optimizer": "adamw",
    "dtype": "bfloat16",
    "pack_size": 32768,
    "micro_steps": 2,
    "chunk_tokens": 1024,
}


def documents_of(pack_size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    lengths = [pack_size // 2, pack_size // 4, pack_size // 8, pack_size // 8]
    return [(np.zeros(n, np.int32), np.ones(n, np.float32)) for n in lengths]


def build(settings: dict) -> Decoder:
    """Return the model without memory."""
    with torch.device("meta"):
        return Decoder(
            find_model(settings["model"]),
            backend="sdpa",
            recompute=settings["recompute"],
            compute_dtype=getattr(torch, settings["dtype"]),
        )


def spread(model: Decoder, mesh: Mesh, layout: Layout, fake: FakeTensorMode) -> data.Distributed:
    """Distribute ``model`` and give it memory without data."""
    if layout.tensor == 1 and layout.sharding == "replicate":
        axis = data._context_axis(mesh, layout)
        data._context_axis = lambda mesh, layout: axis
        with fake:
            return data.distribute(model, mesh, layout)
    # Sharding looks at values, which tensors without data do not have; so memory comes after it.
    data._materialised = lambda model, mesh: model
    distributed = data.distribute(model, mesh, layout)
    with fake:
        model.to_empty(device="cpu")
        model.tie()
    return distributed


def layout_of(settings: dict) -> Layout:
    return Layout(
        num_ranks=settings["ranks"],
        tensor=settings["tensor"],
        context=settings["context"],
        sharding=settings["sharding"],
        shard_size=settings["shard_size"],
    )


def simulate(settings: dict) -> dict:
    dist.init_process_group("fake", rank=0, world_size=settings["ranks"], store=FakeStore())
    sizes = settings["tensor"], settings["context"]
    mesh = Mesh(0, settings["ranks"], torch.device("cpu"), "gloo", *sizes)
    layout = layout_of(settings)
    model = build(settings)
    check_layout(layout, model.arch, "fake_memory")
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    distributed = spread(model, mesh, layout, fake)
    pack = lay_out(documents_of(settings["pack_size"]), mesh)
    torch.Tensor.nonzero = lambda self: torch.arange(len(self))[:, None]  # all are supervised
    with fake:
        peaks = run_steps(distributed, pack, settings)
    dist.destroy_process_group()
    return peaks


def run_steps(distributed: data.Distributed, pack: PackTensors, settings: dict) -> dict[str, int]:
    model, memory, peaks = distributed.model, PeakMemory(), {}
    optimizers = build_optimizers(model, OptimizerSettings(name=settings["optimizer"]))
    memory.watch(model.parameters())
    if isinstance(distributed, data.Replicated):
        memory.watch([distributed._flat])
    with memory:
        for _ in range(2):
            memory.take_peak()
            distributed.begin_step()
            for index in range(settings["micro_steps"]):
                last = index == settings["micro_steps"] - 1
                distributed.begin_micro_step(last)
                loss = model.loss(pack, chunk_tokens=settings["chunk_tokens"])
                peaks["forward"] = memory.take_peak()
                peaks["kept for backward"] = memory.bytes
                (loss / 1000).backward()
                peaks["backward"] = memory.take_peak()
                distributed.end_backward(last)
            del loss
            peaks["after backward"] = memory.bytes
            optimizers.step(1e-4)
            peaks["optimizer"], peaks["between steps"] = memory.take_peak(), memory.bytes
    return peaks


def model_memory(settings: dict) -> StepMemory:
    shape = ModelShape.of(find_model(settings["model"]))
    step = StepSettings(
        pack_tokens=settings["pack_size"],
        recompute=settings["recompute"],
        optimizer=settings["optimizer"],
        compute_bytes=2 if settings["dtype"] == "bfloat16" else 4,
        compiled=False,
        loss_chunk_tokens=settings["chunk_tokens"],
        micro_steps=settings["micro_steps"],
    )
    return step_memory(shape, layout_of(settings), step)


def tensors_of(memory: StepMemory) -> int:
    """Return the modelled bytes of tensors, without those of a device's runtime."""
    return memory.total_bytes - memory.runtime_bytes


def main() -> None:
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    unknown = given.keys() - DEFAULTS.keys()
    if unknown:
        raise SystemExit(f"unknown: {', '.join(unknown)}; known: {', '.join(DEFAULTS)}")
    settings = DEFAULTS | {name: yaml.safe_load(value) for name, value in given.items()}
    if settings["layers"]:
        name = settings["model"]
        NAMED[name] = NAMED[name] | {"num_hidden_layers": settings["layers"]}
    began = time.process_time()
    peaks = simulate(settings)
    modelled = model_memory(settings)
    result = {
        "settings": settings,
        "simulated_bytes": peaks,
        "modelled_bytes": asdict(modelled),
        "modelled_over_simulated": tensors_of(modelled) / max(peaks.values()),
        "cpu_seconds": round(time.process_time() - began, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
