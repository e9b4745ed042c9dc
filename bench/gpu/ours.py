"""Longrun as a contender, and the seams of it that the other parts measure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gpu.cases import Case, Document, Phase, device, draw_steps, fill
from gpu.meter import Meter
from longrun.config.training import OptimizerSettings
from longrun.nn.architecture import Arch
from longrun.nn.attention import choose_backend
from longrun.nn.decoder import Decoder
from longrun.nn.pack import PackTensors, build_pack
from longrun.nn.probe import Heads, time_backends
from longrun.optim.optimizers import build_optimizers
from longrun.parallel.data import distribute
from longrun.parallel.layouts import Layout
from longrun.parallel.mesh import start_mesh
from longrun.training.step import MicroStep, compute_gradients, count
from peers import BETAS, CLIP_NORM, EPSILON

CHUNK_TOKENS = 4096
LR = 1e-5


class Engine:
    """Longrun's model, optimizer and step on one device."""

    def __init__(self, case: Case, *, attention: str, recompute: str, compiled: bool) -> None:
        arch = Arch.from_hf(case.config(), case.name)
        heads = Heads(arch.num_heads, arch.num_kv_heads, arch.head_dim)
        lengths = [(n, n) for n in case.mix[0]]
        dtype = torch.bfloat16
        self.backend = choose_backend(
            attention,
            device(),
            dtype,
            arch.head_dim,
            measure=lambda names: time_backends(names, lengths, heads, dtype, device()),
        )
        mesh = start_mesh()
        with torch.device("meta"):
            model = Decoder(
                arch, backend=self.backend, recompute=recompute, compute_dtype=torch.bfloat16
            )
        self._mesh = mesh
        self.model = distribute(model, mesh, Layout(), compiled=compiled)
        fill(self.model.model.named_parameters())
        self._optimizers = build_optimizers(
            self.model.model, OptimizerSettings(weight_decay=0.0, beta2=BETAS[1], eps=EPSILON)
        )

    def step(self, packs: Sequence[Sequence[Document]], lr: float = LR) -> float:
        """Train one step and return its loss."""
        micro_steps = [
            MicroStep(index, lay_out(pack).to(device())) for index, pack in enumerate(packs)
        ]
        gradients = compute_gradients(
            self.model,
            self._mesh,
            micro_steps,
            num_packs=len(packs),
            weight=count(micro_steps, self._mesh).weight,
            chunk_tokens=CHUNK_TOKENS,
            clip_norm=CLIP_NORM,
        )
        self._optimizers.step(lr)
        return gradients.loss


def lay_out(pack: Sequence[Document]) -> PackTensors:
    """Build the layout of a pack, every token supervised."""
    return build_pack([(d.tokens, np.ones(len(d.tokens), np.float32)) for d in pack])


def train(
    case: Case, chosen: Sequence[Phase], *, attention: str, recompute: str, compiled: bool
) -> dict[str, Any]:
    """Train every phase and return what was measured."""
    engine = Engine(case, attention=attention, recompute=recompute, compiled=compiled)
    measured: dict[str, Any] = {"backend": engine.backend, "phases": {}}
    for phase in chosen:
        meter = Meter()
        for packs in draw_steps(case, phase):
            meter.start()
            meter.losses.append(engine.step(packs))
            meter.stop()
        measured["phases"][phase[0]] = meter.report(case, phase, recompute)
    return measured
