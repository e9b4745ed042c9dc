"""A rival made of torch alone, as torchtitan trains: the best recipe without our kernels and loss.

fully_shard over the one device with bfloat16 parameters and float32 masters, torch.compile per
block, selective checkpointing of every second matrix product or none, torch's own varlen attention,
and a cross entropy in checkpointed chunks. Written from torch's public functions; parameters have
Hugging Face names, so that it starts from the weights of everybody else.
"""

import inspect
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn import functional
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from gpu.cases import Case, Document, Phase, device, draw_steps, fill
from gpu.meter import Meter
from peers import BETAS, CLIP_NORM, EPSILON

Recompute = Literal["none", "half"]
CHUNK_TOKENS = 4096
LR = 1e-5


def attend(q: Tensor, k: Tensor, v: Tensor, cu: Tensor, longest: int) -> Tensor:
    """Attend inside documents, [T, H, D]; on the CPU document by document."""
    if q.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        shared = {"window_size": (-1, 0)}
        if "enable_gqa" in inspect.signature(varlen_attn).parameters:
            shared["enable_gqa"] = True
        out: Tensor = varlen_attn(q, k, v, cu, cu, longest, longest, **shared)
        return out
    parts = []
    for start, stop in pairwise(cu.tolist()):
        one = [x[start:stop].transpose(0, 1)[None] for x in (q, k, v)]
        part = functional.scaled_dot_product_attention(*one, is_causal=True, enable_gqa=True)
        parts.append(part[0].transpose(0, 1))
    return torch.cat(parts)


class Attention(nn.Module):
    """Queries, keys, values, their rotation, attention, output."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.head_dim = case.head_dim
        query, kv = case.heads * case.head_dim, case.kv_heads * case.head_dim
        self.q_proj = nn.Linear(case.hidden, query)
        self.k_proj = nn.Linear(case.hidden, kv)
        self.v_proj = nn.Linear(case.hidden, kv)
        self.o_proj = nn.Linear(query, case.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cu: Tensor, longest: int) -> Tensor:
        """Return [T, hidden]."""
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_dim))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = attend(_rotate(q, cos, sin), _rotate(k, cos, sin), v, cu, longest)
        return self.o_proj(out.flatten(1))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(case.hidden, case.intermediate, bias=False)
        self.up_proj = nn.Linear(case.hidden, case.intermediate, bias=False)
        self.down_proj = nn.Linear(case.intermediate, case.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return [T, hidden]."""
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """One layer: what is compiled, sharded and recomputed."""

    def __init__(self, case: Case, recompute: Recompute) -> None:
        super().__init__()
        self.recompute = recompute
        self.self_attn, self.mlp = Attention(case), MLP(case)
        self.input_layernorm = nn.RMSNorm(case.hidden, eps=1e-6)
        self.post_attention_layernorm = nn.RMSNorm(case.hidden, eps=1e-6)

    def forward(self, x: Tensor, *rest: Any) -> Tensor:
        """Return [T, hidden]."""
        if self.recompute == "none":
            return self._compute(x, *rest)
        contexts = partial(create_selective_checkpoint_contexts, _save_half())
        out: Tensor = checkpoint(self._compute, x, *rest, use_reentrant=False, context_fn=contexts)
        return out

    def _compute(self, x: Tensor, *rest: Any) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), *rest)
        return x + self.mlp(self.post_attention_layernorm(x))


def _save_half() -> Any:
    """Keep the attention and every second matrix product, as torchtitan's per-op policy does."""
    counts: defaultdict[str, int] = defaultdict(int)

    def policy(context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
        name = str(operation)
        if "varlen_attn" in name or "scaled_dot_product" in name:
            return CheckpointPolicy.MUST_SAVE
        if name in ("aten.mm.default", "aten.addmm.default"):
            pass_name = "again" if context.is_recompute else "first"
            counts[pass_name] += 1
            if counts[pass_name] % 2:
                return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE

    return policy


class Backbone(nn.Module):
    """What Hugging Face calls ``model``."""

    def __init__(self, case: Case, recompute: Recompute) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(case.vocab, case.hidden)
        self.layers = nn.ModuleList(Block(case, recompute) for _ in range(case.layers))
        self.norm = nn.RMSNorm(case.hidden, eps=1e-6)


class Recipe(nn.Module):
    """The whole model; calling it returns a loss."""

    def __init__(self, case: Case, recompute: Recompute) -> None:
        super().__init__()
        self.case = case
        self.model = Backbone(case, recompute)
        self.lm_head = nn.Linear(case.hidden, case.vocab, bias=False)
        if case.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, tokens: Tensor, positions: Tensor, cu: Tensor, longest: int) -> Tensor:
        """Return the summed loss of a pack; the first token of a document is no target."""
        x = self.model.embed_tokens(tokens)
        cos, sin = self._rotation(positions, x.dtype)
        for layer in self.model.layers:
            x = layer(x, cos, sin, cu, longest)
        x = self.model.norm(x)
        targets = torch.where(positions == 0, -100, tokens).roll(-1)
        total = x.new_zeros((), dtype=torch.float32)
        for hidden, wanted in zip(x.split(CHUNK_TOKENS), targets.split(CHUNK_TOKENS), strict=True):
            total = total + checkpoint(self._chunk, hidden, wanted, use_reentrant=False)
        return total

    def _chunk(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = self.lm_head(hidden).float()
        return functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")

    def _rotation(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        channels = torch.arange(0, self.case.head_dim, 2, device=positions.device).float()
        rates = 1.0 / self.case.config()["rope_theta"] ** (channels / self.case.head_dim)
        angles = torch.outer(positions.float(), rates)[:, None]
        angles = torch.cat((angles, angles), -1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def build(case: Case, *, recompute: Recompute, compiled: bool) -> Recipe:
    """Build, fill, compile and shard the model; starts a process group of one."""
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    with torch.device(device()):
        model = Recipe(case, recompute)
    fill(model.named_parameters())
    mesh = init_device_mesh(device().type, (1,))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in model.model.layers:
        if compiled:
            layer.compile()
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return model


def train(
    case: Case, chosen: Sequence[Phase], *, recompute: Recompute, compiled: bool
) -> dict[str, Any]:
    """Train every phase and return what was measured."""
    model = build(case, recompute=recompute, compiled=compiled)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LR, betas=BETAS, eps=EPSILON, weight_decay=0.0, fused=True
    )
    measured: dict[str, Any] = {"phases": {}}
    for phase in chosen:
        meter = Meter()
        for packs in draw_steps(case, phase):
            meter.start()
            meter.losses.append(_step(model, optimizer, packs))
            meter.stop()
        measured["phases"][phase[0]] = meter.report(case, phase, "none")
    dist.destroy_process_group()
    return measured


def _step(
    model: Recipe, optimizer: torch.optim.Optimizer, packs: Sequence[Sequence[Document]]
) -> float:
    targets = sum(len(d.tokens) - 1 for pack in packs for d in pack)
    total = torch.zeros((), device=device())
    for pack in packs:
        lengths = [len(d.tokens) for d in pack]
        tokens = torch.cat([torch.from_numpy(d.tokens).long() for d in pack]).to(device())
        positions = torch.cat([torch.arange(n) for n in lengths]).to(device())
        cu = torch.tensor([0, *lengths]).cumsum(0).to(device(), torch.int32)
        loss = model(tokens, positions, cu, max(lengths)) / targets
        loss.backward()
        total += loss.detach()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    optimizer.step()
    optimizer.zero_grad()
    return float(total)
