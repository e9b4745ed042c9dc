"""Generated training records and benchmarks that a tiny model can learn on a laptop's CPU.

The records have the columns of OpenMathReasoning, so that they pass through the same preparation,
filters and packing as real data; ``pass_rate_72b_tir`` is the pass rate of a simulated noisy
solver, not of a 72B model. The same seed gives the same bytes. It never imports torch.
"""

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

from longrun.data.synthetic_problems import (
    CODE_FAMILIES,
    SUM_FAMILIES,
    Problem,
    draw_pass_rate,
    draw_problems,
)
from longrun.data.synthetic_solutions import (
    LOWEST_SELECTED_ANSWER,
    draw_candidates,
    select_solution,
    solve_in_words,
    solve_with_code,
    write_selection_prompt,
)

MODES = ("cot", "tir", "genselect")


def _draw(mode: str, rng: random.Random, *, held_out: bool) -> Iterator[Problem]:
    problems = draw_problems(
        CODE_FAMILIES if mode == "tir" else SUM_FAMILIES, rng, held_out=held_out
    )
    if mode == "genselect":
        return (problem for problem in problems if problem.answer >= LOWEST_SELECTED_ANSWER)
    return problems


def generate_records(
    mode: str, *, num_records: int, seed: int, most_code_executions: int = 3
) -> Iterator[dict[str, object]]:
    """Yield training records of one mode, in the columns of OpenMathReasoning."""
    rng = random.Random(f"{seed} {mode} records")
    for problem in itertools.islice(_draw(mode, rng, held_out=False), num_records):
        text = problem.text
        if mode == "cot":
            solution = solve_in_words(problem)
        elif mode == "tir":
            solution = solve_with_code(problem, rng.randint(1, most_code_executions))
        else:
            candidates = draw_candidates(problem, rng)
            text = write_selection_prompt(problem, candidates)
            solution = select_solution(problem, candidates)
        yield {
            "problem": text,
            "generated_solution": solution,
            "generation_model": "synthetic",
            "problem_type": "has_answer_extracted",
            "expected_answer": str(problem.answer),
            "problem_source": problem.family.source,
            "inference_mode": mode,
            "pass_rate_72b_tir": draw_pass_rate(problem, rng),
            "used_in_kaggle": rng.random() < 0.5,
        }


def generate_benchmark(
    mode: str, *, num_problems: int, seed: int, most_code_executions: int = 3
) -> Iterator[dict[str, object]]:
    """Yield benchmark rows of one mode; no operand combination occurs in any training record."""
    rng = random.Random(f"{seed} {mode} benchmark")
    problems = itertools.islice(_draw(mode, rng, held_out=True), num_problems)
    for index, problem in enumerate(problems):
        row: dict[str, object] = {
            "id": f"{mode}-{index}",
            "problem": problem.text,
            "expected_answer": str(problem.answer),
            "mode": mode,
            "source": problem.family.source,
        }
        if mode == "tir":
            row["total_code_executions"] = rng.randint(1, most_code_executions)
        if mode == "genselect":
            candidates = draw_candidates(problem, rng)
            row["problem"] = write_selection_prompt(problem, candidates)
            row["candidates"] = [str(candidate) for candidate in candidates]
        yield row
