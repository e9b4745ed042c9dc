"""Peak extra memory and time of the output layer and its loss, against the alternatives.

    python bench/loss_head.py --out runs/bench-loss                       2,048 tokens, all of them
    python bench/loss_head.py --tokens 32768 --methods longrun            a whole pack

Forward and backward of the cross entropy of ``hidden @ weight.T`` on the CPU: hidden states in
bfloat16, weights in float32 of which each method computes in bfloat16. Every method runs in a fresh
process. Extra memory is the rise of the largest resident size after the inputs and the gradient of
the hidden states exist; the float32 gradient of the weights is part of it.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import contest

GIB = 2**30
CHUNK = 1024


def longrun(hidden: Any, weight: Any, targets: Any) -> Any:
    """Longrun's chunked loss, gradients formed in the forward pass."""
    import torch

    from longrun.nn.loss import linear_cross_entropy

    weights = torch.ones(len(targets))
    return linear_cross_entropy(hidden, weight, targets, weights, chunk_tokens=CHUNK)


def whole_logits(hidden: Any, weight: Any, targets: Any) -> Any:
    """All logits at once, widened to float32: what transformers' own loss does."""
    from torch.nn import functional

    logits = functional.linear(hidden, weight.to(hidden.dtype)).float()
    return functional.cross_entropy(logits, targets, reduction="sum")


def checkpointed_chunks(hidden: Any, weight: Any, targets: Any) -> Any:
    """Chunks whose logits are computed again in the backward pass."""
    from torch.utils.checkpoint import checkpoint

    narrow = weight.to(hidden.dtype)
    total = hidden.new_zeros(()).float()
    for rows, wanted in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True):
        total = total + checkpoint(whole_logits, rows, narrow, wanted, use_reentrant=False)
    return total


def torch_fused(hidden: Any, weight: Any, targets: Any) -> Any:
    """Use torch's own fused function, where this torch has one."""
    from torch.nn import functional

    return functional.linear_cross_entropy(
        hidden, weight.to(hidden.dtype), targets, reduction="sum"
    )


METHODS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "longrun": longrun,
    "whole-logits": whole_logits,
    "checkpointed-chunks": checkpointed_chunks,
    "torch-fused": torch_fused,
}


def measure(method: str, tokens: int, width: int, vocab: int) -> dict[str, Any]:
    """Run one method once, in this process."""
    import torch
    from torch.nn import functional

    if method == "torch-fused" and not hasattr(functional, "linear_cross_entropy"):
        return {"left_out": f"torch {torch.__version__} has no linear_cross_entropy"}
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(vocab, width, generator=generator).mul_(0.02).requires_grad_()
    hidden = torch.randn(tokens, width, generator=generator).bfloat16().requires_grad_()
    targets = torch.randint(vocab, (tokens,), generator=generator)
    hidden.grad = torch.zeros_like(hidden)
    before, began = _peak(), time.process_time()
    loss = METHODS[method](hidden, weight, targets)
    loss.backward()
    seconds, extra = time.process_time() - began, _peak() - before
    return {
        "extra_bytes": extra,
        "cpu_seconds": seconds,
        "loss": float(loss) / tokens,
        "weight_gradient_norm": float(weight.grad.norm()),
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every method and print the table."""
    options = _parse(arguments)
    if options.one is not None:
        found = measure(options.one, options.tokens, options.width, options.vocab)
        contest.write_json(options.out, found)
        return
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    sizes = ["--tokens", str(options.tokens), "--width", str(options.width)]
    sizes += ["--vocab", str(options.vocab)]
    outcomes = []
    for method in options.methods:
        result = out / f"{method}-{options.tokens}.json"
        command = [sys.executable, __file__, "--one", method, "--out", str(result), *sizes]
        outcomes.append(contest.run(method, command, result, cap_seconds=1800))
    rows = []
    for outcome in outcomes:
        if not outcome.ok:
            rows.append([outcome.name, outcome.status, outcome.problem.strip()[-60:], "", ""])
            continue
        found = outcome.measured
        extra, seconds = f"{found['extra_bytes'] / GIB:.2f}", f"{found['cpu_seconds']:.1f}"
        norm = f"{found['weight_gradient_norm']:.4f}"
        rows.append([outcome.name, extra, seconds, f"{found['loss']:.6f}", norm])
    print(f"{options.tokens} tokens, width {options.width}, vocabulary {options.vocab}\n")
    header = ["method", "extra GiB", "CPU s", "loss", "norm of the weight gradient"]
    print(contest.table(header, rows))
    document = {
        "processor": contest.processor_name(),
        "versions": contest.versions(("torch",)),
        "sizes": [options.tokens, options.width, options.vocab],
        "outcomes": contest.as_rows(outcomes),
    }
    contest.write_json(out / f"loss_head-{options.tokens}.json", document)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/bench-loss"))
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--width", type=int, default=1536, help="channels: 1536 is the 1.5B")
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--one", choices=METHODS, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
