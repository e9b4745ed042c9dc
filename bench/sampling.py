"""Time of choosing one token per row from a nucleus: Longrun's way and a sort of every row.

Run: ``python bench/sampling.py``. Prints milliseconds of CPU time on one thread, the least of nine.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from longrun.evaluation.generation.sampling import choose_by_chance

VOCAB_SIZE, ROWS, TEMPERATURE, TOP_P = 151_936, 32, 0.6, 0.95


def choose_by_sorting(logits_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    probabilities_BV, tokens_BV = torch.softmax(logits_BV / TEMPERATURE, -1).sort(
        dim=-1, descending=True, stable=True
    )
    outside_BV = probabilities_BV.cumsum(-1) - probabilities_BV >= TOP_P
    cumulative_BV = probabilities_BV.masked_fill(outside_BV, 0.0).double().cumsum(-1)
    bound_B1 = uniforms_B[:, None] * cumulative_BV[:, -1:]
    return tokens_BV.gather(-1, torch.searchsorted(cumulative_BV, bound_B1, right=True)).squeeze(-1)


def time_milliseconds(choose: Callable[[], Tensor]) -> float:
    choose()
    times = []
    for _ in range(9):
        began = time.process_time()
        choose()
        times.append(time.process_time() - began)
    return 1e3 * min(times)


def main() -> None:
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)
    print("| tokens in the nucleus (median) | sort of every row | Longrun |\n|---:|---:|---:|")
    for spread in (8.0, 2.0, 0.0):
        logits_BV = spread * torch.randn(ROWS, VOCAB_SIZE, generator=rng)
        uniforms_B = torch.rand(ROWS, generator=rng, dtype=torch.float64)
        sorted_BV = torch.softmax(logits_BV / TEMPERATURE, -1).sort(dim=-1, descending=True).values
        sizes_B = (sorted_BV.cumsum(-1) - sorted_BV < TOP_P).sum(-1)

        def ours(logits_BV: Tensor = logits_BV, uniforms_B: Tensor = uniforms_B) -> Tensor:
            return choose_by_chance(logits_BV, uniforms_B, temperature=TEMPERATURE, top_p=TOP_P)

        def theirs(logits_BV: Tensor = logits_BV, uniforms_B: Tensor = uniforms_B) -> Tensor:
            return choose_by_sorting(logits_BV, uniforms_B)

        if not torch.equal(ours(), theirs()):
            raise SystemExit("the two ways chose different tokens")
        times = f"{time_milliseconds(theirs):.0f} ms | {time_milliseconds(ours):.0f} ms"
        print(f"| {int(sizes_B.median()):,} | {times} |")


if __name__ == "__main__":
    main()
