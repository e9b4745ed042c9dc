"""Before any speed counts: Longrun against transformers in float32, document by document.

Two layers of the model's width and its whole vocabulary. The weights are rounded to bfloat16 first,
so that the errors measured are those of computing. An error is judged by that of transformers'
own bfloat16 model against the same float32 one: at most 1.5 times as large.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gpu.cases import Case, Document, device, draw_pack, fill
from gpu.ours import Engine, lay_out
from longrun.nn.architecture import Arch
from longrun.nn.decoder import Decoder
from longrun.nn.kernels import KERNELS, KernelRequest
from longrun.nn.pack import PackTensors
from peers import BETAS, CLIP_NORM, EPSILON

LENGTHS, TINY_LENGTHS = (3000, 1801, 2500, 891), (60, 1, 40, 27)
ALLOWED = 1.5
"""Times the error of transformers in bfloat16."""
LOSS_FLOOR, GRADIENT_FLOOR = 1e-4, 1e-2
"""Errors below the first, and of tensors below this share of the global norm, are rounding."""
CURVE_STEPS, CURVE_BOUND, CURVE_LR = 20, 1e-2, 1e-4

Gradients = dict[str, Tensor]


@dataclass(frozen=True)
class Check:
    """One law, what was found, and its bound."""

    law: str
    found: float
    bound: float

    @property
    def holds(self) -> bool:
        """Say whether the law holds; not a number never does."""
        return self.found <= self.bound


def measure(case: Case, *, smoke: bool) -> list[dict[str, Any]]:
    """Return every check of every backend that runs here."""
    small = replace(case, layers=2)
    pack = draw_pack(small, TINY_LENGTHS if smoke else LENGTHS, seed=1)
    exact = _transformers(small, pack, torch.float32)
    rounded = _transformers(small, pack, torch.bfloat16)
    checks: list[Check] = []
    for backend, kernel in KERNELS.items():
        if kernel.obstacle(KernelRequest(device(), torch.bfloat16, small.head_dim)) is None:
            model = _longrun(small, backend)
            checks += _against_transformers(backend, model, pack, exact, rounded)
            checks += _laws(backend, model, pack)
    checks.append(_curve(small, pack))
    return [{"law": c.law, "found": c.found, "bound": c.bound, "holds": c.holds} for c in checks]


def _round(model: torch.nn.Module) -> None:
    fill(model.named_parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())


def _build_transformers(case: Case) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(**case.config())
    config._attn_implementation = "eager"
    with torch.device(device()):
        model = Qwen2ForCausalLM(config)
    _round(model)
    return model


def _document_loss(model: Any, document: Document) -> Tensor:
    tokens = torch.from_numpy(document.tokens).long().to(device())
    logits = model(input_ids=tokens[None]).logits[0, :-1].float()
    return torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="sum")


def _transformers(
    case: Case, pack: Sequence[Document], dtype: torch.dtype
) -> tuple[float, Gradients]:
    """Return the summed loss and its gradients, summed in float32, one document at a time."""
    model, total = _build_transformers(case).to(dtype), 0.0
    sums: Gradients = {}
    for document in pack:
        if len(document.tokens) > 1:
            model.zero_grad()
            loss = _document_loss(model, document)
            loss.backward()
            total += float(loss)
            for name, parameter in model.named_parameters():
                sums[name] = sums.get(name, 0.0) + parameter.grad.float()
    return total, sums


def _longrun(case: Case, backend: str) -> Decoder:
    with torch.device(device()):
        model = Decoder(
            Arch.from_hf(case.config(), case.name), backend=backend, compute_dtype=torch.bfloat16
        )
    _round(model)
    return model


def _gradients(model: Decoder, layout: PackTensors, chunk: int = 4096) -> tuple[float, Gradients]:
    model.zero_grad()
    loss = model.loss(layout, chunk_tokens=chunk)
    loss.backward()
    return float(loss), {n: p.grad.clone() for n, p in model.named_parameters()}


def _errors(found: Gradients, exact: Gradients) -> dict[str, float]:
    norms = {name: float(gradient.norm()) for name, gradient in exact.items()}
    floor = GRADIENT_FLOOR * sum(norm**2 for norm in norms.values()) ** 0.5
    return {n: float((found[n] - exact[n]).norm()) / max(norms[n], floor) for n in exact}


def _against_transformers(
    backend: str,
    model: Decoder,
    pack: Sequence[Document],
    exact: tuple[float, Gradients],
    rounded: tuple[float, Gradients],
) -> list[Check]:
    loss, gradients = _gradients(model, lay_out(pack).to(device()))
    ours, theirs = (abs(one - exact[0]) / exact[0] for one in (loss, rounded[0]))
    errors, yardstick = _errors(gradients, exact[1]), _errors(rounded[1], exact[1])
    worst = max(errors, key=lambda name: errors[name] / max(yardstick[name], LOSS_FLOOR))
    return [
        Check(f"{backend}: loss as in float32", ours, max(ALLOWED * theirs, LOSS_FLOOR)),
        Check(
            f"{backend}: gradients as in float32 (worst: {worst})",
            errors[worst],
            max(ALLOWED * yardstick[worst], LOSS_FLOOR),
        ),
    ]


def _laws(backend: str, model: Decoder, pack: Sequence[Document]) -> list[Check]:
    layout = lay_out(pack).to(device())
    loss, _ = _gradients(model, layout)
    chunked, _ = _gradients(model, layout, chunk=37)
    checks = [
        Check(f"{backend}: changed logits of unchanged documents", _leak(model, layout), 0.0),
        Check(f"{backend}: loss in other chunks", abs(chunked - loss) / loss, 1e-5),
        Check(f"{backend}: targets without weight", _ignored(model, layout), 0.0),
    ]
    repeatable = backend in ("reference", "torch_varlen", "fa4")
    if repeatable:
        found = _deterministic(lambda: _gradients(model, layout)[1])
        checks.append(Check(f"{backend}: bits that differ when asked to repeat", found, 0.0))
    return checks


@torch.no_grad()
def _leak(model: Decoder, layout: PackTensors) -> float:
    """Change the first document and count the logits of the others that change."""
    first, changed = layout.lengths[0], layout.tokens.clone()
    changed[:first] = (changed[:first] + 1) % model.arch.vocab_size
    before, after = (model.logits(one)[first:] for one in (layout, replace(layout, tokens=changed)))
    return float((before != after).sum())


@torch.no_grad()
def _ignored(model: Decoder, layout: PackTensors) -> float:
    """Change the targets of the first third, whose weights are 0, and compare the loss."""
    third = layout.num_tokens // 3
    weights, targets = layout.weights.clone(), layout.targets.clone()
    weights[:third] = 0.0
    one = model.loss(replace(layout, weights=weights))
    targets[:third] = (targets[:third] + 1) % model.arch.vocab_size
    other = model.loss(replace(layout, weights=weights, targets=targets))
    return float(abs(one - other))


def _deterministic(compute: Callable[[], Gradients]) -> float:
    """Count the tensors that differ between two runs; not a number where it cannot be asked."""
    torch.use_deterministic_algorithms(True)
    try:
        once, again = compute(), compute()
    except RuntimeError as problem:
        print(f"deterministic mode: {problem}")
        return float("nan")
    finally:
        torch.use_deterministic_algorithms(False)
    return float(sum(not torch.equal(once[name], again[name]) for name in once))


def _curve(case: Case, pack: Sequence[Document]) -> Check:
    """Train on one pack with Longrun in bfloat16 and with transformers in float32."""
    engine = Engine(case, attention="auto", recompute="none", compiled=False)
    _round(engine.model.model)
    ours = [engine.step([pack], lr=CURVE_LR) for _ in range(CURVE_STEPS)]
    model = _build_transformers(case)
    optimizer = torch.optim.AdamW(
        model.parameters(), CURVE_LR, betas=BETAS, eps=EPSILON, weight_decay=0.0
    )
    targets, theirs = sum(len(d.tokens) - 1 for d in pack), []
    for _ in range(CURVE_STEPS):
        optimizer.zero_grad()
        total = 0.0
        for document in pack:
            if len(document.tokens) > 1:
                loss = _document_loss(model, document) / targets
                loss.backward()
                total += float(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        theirs.append(total)
    worst = max(abs(one - other) / other for one, other in zip(ours, theirs, strict=True))
    return Check(f"loss of {CURVE_STEPS} steps as in float32", worst, CURVE_BOUND)
